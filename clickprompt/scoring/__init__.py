"""Rows and raw rows → logits, with an export. Nothing here knows Ray."""
