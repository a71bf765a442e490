"""Does it help, by how much, and why: truths, rankings, ablations and baselines on data that a reader has."""
