"""Kinds of attention that take the place of a family's own: a file each, found by walking.

A file declares `SETTINGS`, the names of its whole-number settings, each at least 1, and `swap(block, **settings)`,
which changes the block in place. What it makes has the projections under the names that the family gives them, starts
from their weights, and gives the same at real tokens however a batch is padded. Nothing here imports torch before
`kind` runs.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from types import ModuleType

from smidgen.errors import InputError, did_you_mean

__all__ = ["kind", "kinds"]


@functools.cache
def kinds() -> tuple[str, ...]:
    """All of them, sorted."""
    return tuple(sorted(found.name for found in pkgutil.iter_modules(__path__) if not found.name.startswith("_")))


def kind(name: str) -> ModuleType:
    """The file of a kind. Raises InputError where there is none."""
    if name not in kinds():
        raise InputError(f"attention is {name!r}.{did_you_mean(name, kinds())} Use one of {', '.join(kinds())}.")
    return importlib.import_module(f"{__name__}.{name}")
