"""Studies on real data: truths, rankings, ablations and baselines, with intervals and a command for each table."""
