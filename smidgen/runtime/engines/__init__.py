"""What runs a graph: one file each."""
