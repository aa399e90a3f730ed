"""Raw logs: formats, the YAML schema, the sources known by name, and checks of a log before it is
prepared.
"""
