"""Methods; each file is one, and its path is its name."""
