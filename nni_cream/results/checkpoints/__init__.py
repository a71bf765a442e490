"""Checkpoints of a training: the files, and what they hold beside Lightning's state."""
