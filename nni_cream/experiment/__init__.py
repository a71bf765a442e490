"""What runs a search from files and processes: output folders, the NNI manager's tuner and trials, export."""
