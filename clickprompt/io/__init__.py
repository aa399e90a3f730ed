"""Input and output that know nothing of the method: URIs, whole folders, progress, and facts about the
machine.
"""
