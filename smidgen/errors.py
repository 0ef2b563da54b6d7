"""What can go wrong, drawn at the head.

SmidgenError                  exit 1
├── InputError                exit 2   what was given cannot be used; nothing was written
│   ├── DataError                      a data file: names the file, the row or the column
│   ├── ModelError                     a model folder
│   ├── BudgetError                    a budget that does not parse
│   └── RecipeError                    every fault of a recipe at once, in `.faults`
├── NoEffect                  exit 2   a method that would change nothing in this model
├── Busy                      exit 2   another run holds the folder
├── Faulty                             what was made is not what it should be; it was not kept
├── OutOfTime                          what would not end in the time that it was given
├── ArtefactError                      a folder that is not whole, or not what its name says
└── MissingExtra              exit 2   a package of an extra that is not installed

Each message says what was got, what was wanted, and what to type.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class SmidgenError(Exception):
    """The root of every error that smidgen raises on purpose."""

    exit_code = 1


class InputError(SmidgenError):
    """What the user gave cannot be used."""

    exit_code = 2


class DataError(InputError):
    """A data file, row or column cannot be used."""


class ModelError(InputError):
    """A model folder cannot be used."""


class BudgetError(InputError):
    """A budget does not parse."""


class RecipeError(InputError):
    """A recipe has faults; `faults` holds all of them, each one sentence or two."""

    def __init__(self, faults: Sequence[str], where: str = "recipe") -> None:
        self.faults = tuple(faults)
        count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        super().__init__("\n".join([f"{where}: {count}", *(f"  - {fault}" for fault in self.faults)]))
        self.where = where

    def __reduce__(self) -> tuple[type[RecipeError], tuple[tuple[str, ...], str]]:
        return RecipeError, (self.faults, self.where)  # whole again in another process


class NoEffect(SmidgenError):
    """A method matched nothing, so the stage would have changed nothing."""

    exit_code = 2


class Busy(SmidgenError):
    """Another run holds the folder; when it is over, nothing is wrong any more."""

    exit_code = 2


class Faulty(SmidgenError):
    """What was made of a model does not say what the model says, or could not be made: a fault of this one alone."""


class OutOfTime(SmidgenError):
    """Work would not end in time, and was stopped; `share` is how much of its training would have, and `seconds` what
    all of that would have taken, 0 where it is not known."""

    def __init__(self, text: str, share: float = 0.0, seconds: float = 0.0) -> None:
        super().__init__(text)
        self.share, self.seconds = share, seconds


UNMADE = (InputError, NoEffect, Faulty)  # this cannot be made of what was given; another one may


class ArtefactError(SmidgenError):
    """A stored folder is not whole, or is not what its name says."""


class MissingExtra(SmidgenError):
    """A package that an optional part needs is not installed."""

    exit_code = 2


def did_you_mean(got: str, known: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the closest known name, or `""`."""
    close = difflib.get_close_matches(got, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
