"""Checks of ``nni-cream doctor``: each looks at one thing, and takes what it looks at as an argument."""
