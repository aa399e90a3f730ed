"""Turn rows and raw rows into logits with an export. Nothing here knows Ray."""
