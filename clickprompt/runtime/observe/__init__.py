"""Observe a run: status, TensorBoard, trackers, Prometheus metrics and memory."""
