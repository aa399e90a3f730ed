"""Raw logs: formats, the YAML schema, the sources that are known by name, and looks at a log before it is
prepared.
"""
