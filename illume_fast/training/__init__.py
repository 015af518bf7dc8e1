"""Training: one file per stage, each run by one command."""
