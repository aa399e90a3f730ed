"""A campaign of faults: runs that are killed in every way a cluster knows, and an audit of what they end
with.
"""
