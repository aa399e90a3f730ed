"""Embedding tables of which a step reads and writes only the rows that it needs."""
