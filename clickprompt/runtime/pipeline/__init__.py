"""The whole job by one configuration."""
