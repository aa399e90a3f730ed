"""Figures of predictions: metrics, significance, slices. No models here, and no Ray."""
