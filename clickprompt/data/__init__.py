"""Raw logs → prepared Parquet, vocabulary, token table → batches. Nothing here imports ray or a model."""
