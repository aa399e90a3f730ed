"""A campaign of faults: runs that are killed in every way that happens on a cluster, and an audit of their
results.
"""
