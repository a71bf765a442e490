"""One process does one job: search, retrain, evaluate, export, dry run."""
