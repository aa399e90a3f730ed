"""The prepared dataset on disk, and the order in which its rows are read."""
