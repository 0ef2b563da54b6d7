"""The methods, a file each: `prune/layers.py` is `prune.layers`."""
