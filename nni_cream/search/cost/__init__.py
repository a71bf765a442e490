"""The cost of a path: multiply-adds, parameters, latency, or a function of the user."""
