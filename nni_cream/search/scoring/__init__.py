"""The worth of a path: scores on validation images, candidates, the final validation."""
