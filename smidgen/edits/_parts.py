"""What several Edits share. Imports no torch."""

from __future__ import annotations

import itertools


def rising(indices: object) -> bool:
    """Whether this is a tuple of indices, each 0 or more and larger than the one before; the empty one is."""
    if not isinstance(indices, tuple) or any(type(i) is not int or i < 0 for i in indices):
        return False
    return all(before < after for before, after in itertools.pairwise(indices))
