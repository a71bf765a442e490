"""Latency on the user's device: stopwatch, table, model."""
