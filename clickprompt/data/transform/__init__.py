"""From raw typed columns to a row's texts and field_ids: the one way there."""
