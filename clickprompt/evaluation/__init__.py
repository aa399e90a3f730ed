"""Figures of predictions: metrics, significance, slices. Neither models nor Ray are needed here."""
