"""The export: its format, the folder a server loads, and the graphs that run without this package."""
