"""Synthetic logs from a known click model."""
