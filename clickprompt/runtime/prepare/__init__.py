"""Raw logs → prepared datasets and token tables, on Ray."""
