"""Layers with choices among their arguments, such as ``MutableConv2d(16, nni.choice(...), 3)``."""
