"""Connecting to Ray, who goes where, what a cluster must have, and jobs on it."""
