"""Connect to Ray, place work on its nodes, check and size a cluster, and submit jobs to it."""
