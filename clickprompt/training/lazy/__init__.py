"""Lazy embedding tables: a step reads and writes only the rows that it needs."""
