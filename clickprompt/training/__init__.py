"""The training loop, its engines and checkpoints; nothing here imports ray."""
