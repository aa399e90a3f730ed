"""From raw logs to batches: prepared Parquet, vocabulary, token table. Nothing here imports ray or a
model.
"""
