"""Reading and writing: places by URI, whole folders, progress, and what the machine is. Nothing here knows
the method.
"""
