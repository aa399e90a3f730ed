"""Score by pools of actors: evaluation, prediction and serving."""
