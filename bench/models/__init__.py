"""Models of other codebases with random weights, to compare with."""
