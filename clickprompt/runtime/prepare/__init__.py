"""Prepare datasets and token tables from raw logs on Ray."""
