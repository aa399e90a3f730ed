"""One training run on Ray Train: driver, data stream, workers, checkpoints and validation."""
