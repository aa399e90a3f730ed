"""What a run shows while it runs: its status, TensorBoard, trackers, Prometheus, memory."""
