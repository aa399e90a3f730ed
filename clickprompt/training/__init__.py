"""One flat loop over an engine; nothing here imports ray."""
