"""The points of a sweep, the rule for which of them go on, and the results. Nothing here needs Ray."""
