"""Scoring by pools of actors: evaluation, prediction, serving."""
