"""Metrics, prediction files and latency; nothing here knows Ray."""
