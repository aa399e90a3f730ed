"""Turn raw typed columns into a row's texts and field_ids, the same way for every caller."""
