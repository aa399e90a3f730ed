"""One training on Ray Train: driver, stream, workers, checkpoints, validation."""
