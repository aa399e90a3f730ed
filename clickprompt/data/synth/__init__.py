"""Synthetic logs with a planted click model."""
