"""Which shapes are worth building, by what of each limit those of their kind use that are built already.

What whole blocks of one model take grows along a line with how many they are. A shape of other parts, such as a pruned
or a narrow one, takes no less time than whole blocks that do as much work; of its size they say nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")
LATENCY = "latency"
Used = Mapping[str, float]  # the name of a limit -> how many times the limit it comes to


@dataclass(eq=False)
class Piece(Generic[T]):
    """A shape, as far as it is known.

    work: blocks of its model that take as many operations; 0 = of no model.
    even: is it whole blocks of that model, and nothing else?
    counts: is less of its family not wanted where enough of it fits?
    used: what it uses once it is built. gone: why it never will be.
    """

    of: T
    family: str
    work: float
    even: bool = True
    counts: bool = True
    used: Used | None = None
    gone: str = ""

    @property
    def open(self) -> bool:
        return self.used is None and not self.gone

    @property
    def fits(self) -> bool:
        return self.used is not None and not self.gone and _most(self.used) <= 1


@dataclass(frozen=True)
class Wanted:
    """How far over a limit what is built may be likely to be, how many of a family that fit are enough, and whether the
    smallest are wanted first."""

    most: float
    enough: float
    rising: bool = False


@dataclass
class Kind(Generic[T]):
    """Shapes that are made of one model and finished alike, of each family the largest first."""

    pieces: list[Piece[T]] = field(default_factory=list)

    def next(self, wanted: Wanted) -> list[Piece[T]]:
        """What to build next: first whole blocks, the smallest and another, which tell of all others; then one of each
        family."""
        even = [piece for piece in self.pieces if piece.even and piece.work and not piece.gone]
        if even and all(piece.open for piece in even):
            return [min(even, key=_work)]
        families = dict.fromkeys(piece.family for piece in self.pieces)
        each = (self._next_of([p for p in self.pieces if p.family == name], wanted) for name in families)
        found = [piece for piece in each if piece is not None]
        first = [piece for piece in found if piece.even] if len(self._even) == 1 else []
        sure = [piece for piece in first if _surely(piece, self._even)]
        return sure or [min(first, key=_work)] if first else found

    def _next_of(self, family: Sequence[Piece[T]], wanted: Wanted) -> Piece[T] | None:
        """The largest that is likely to fit, of what is larger than enough that does. Where one shape alone is known,
        the largest that surely fits if what it takes grows no faster than its work, else the smallest."""
        hopeful, fitting = list[Piece[T]](), 0
        for piece in family:
            if piece.open and (fitting < wanted.enough or not piece.counts) and self.foretold(piece) <= wanted.most:
                hopeful.append(piece)
            fitting += piece.counts and piece.fits
        if wanted.rising:
            return min(hopeful, key=_work, default=None)
        known = self._even or {piece.work: piece.used for piece in family if piece.used is not None}
        if len(known) == 1 and hopeful:
            sure = [piece for piece in hopeful if _surely(piece, known)]
            return max(sure, key=_work, default=min(hopeful, key=_work))
        return max(hopeful, key=_work, default=None)

    @property
    def _even(self) -> dict[float, Used]:
        """What whole blocks use, by their number."""
        return {piece.work: piece.used for piece in self.pieces if piece.even and piece.work and piece.used is not None}

    def foretold(self, piece: Piece[T]) -> float:
        """What it comes to, at least, of the limit that it breaks most; 0 where nothing tells."""
        even = self._even if piece.work else {}
        if not piece.even:
            even = {
                work: {name: times for name, times in used.items() if name == LATENCY} for work, used in even.items()
            }
        smaller = [used for work, used in even.items() if work <= piece.work]
        alike = (other for other in self.pieces if other.family == piece.family and other.work <= piece.work)
        smaller += [other.used for other in alike if other.used is not None]
        found = [_most(used) for used in smaller]
        if len(even) > 1:
            near, far = sorted(even, key=lambda work: abs(work - piece.work))[:2]
            for name in even[near].keys() & even[far].keys():
                slope = (even[near][name] - even[far][name]) / (near - far)
                found.append(even[near][name] + slope * (piece.work - near))
        return max(found, default=0.0)


def _surely(piece: Piece[T], known: Mapping[float, Used]) -> bool:
    """Does it fit, if what it takes grows no faster than its work from the one that is known?"""
    ((work, used),) = known.items()
    return _most(used) * piece.work <= work


def _most(used: Used) -> float:
    return max(used.values(), default=0.0)


def _work(piece: Piece[T]) -> float:
    return piece.work
