"""Everything that runs on Ray; the only imports of ray."""
