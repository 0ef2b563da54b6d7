"""Which heads and inner units to keep for a price: the best by their scores, under any table of costs.

Scores add up: what goes costs the sum of its scores. Heads are put in order over all blocks, and so are units. For each
number of heads the best so many stay, and the rest of the price goes into the best units; the best of these is found
by trying all (Kwon et al. 2022, arXiv:2204.09656). Where a sublayer's first head or unit costs much more than the next,
as it does in milliseconds, it may pay to empty the sublayer: those whose absence leaves more to keep are emptied, one
by one, as long as the scores say that it helps. They cannot see that the parts of a sublayer stand in for each other,
and that without all of them a model may be worth nothing; so each number of emptied sublayers is a choice of its own,
and so is a head in each block, or in as many as the price has room for. One head always stays: without any, no token
would see another.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from smidgen.prices import Costs, Row

Each = list[np.ndarray]  # an array a block
Sublayer = tuple[int, int]  # 0 its attention, 1 its feed-forward; the block


@dataclass(frozen=True, eq=False)
class Kept:
    """heads, units: (heads,) and (width,) bool a block; score: the sum of what is kept.

    emptied: the sublayers that had to be left without any part.
    """

    heads: Each
    units: Each
    score: float
    emptied: frozenset[Sublayer] = frozenset()

    @property
    def shape(self) -> list[tuple[int, int]]:
        return [(int(h.sum()), int(u.sum())) for h, u in zip(self.heads, self.units, strict=True)]


def choices(heads: Each, units: Each, costs: Costs, limit: float, multiple: int = 1) -> list[Kept]:
    """Parts to keep so that `costs.predict(kept.shape) <= limit`: with a head in each block, or in as many as fit; with
    no sublayer emptied for its price, with one, with two, as long as the scores rise. An empty list where nothing fits.

    Args:
        heads, units: scores of each block, 0 or more; an empty array where the block has none.
        multiple: units go in groups of so many, the best together, so that widths are multiples of it.

    In each block the best group of units stays, and where there are none the best head: a block cannot be empty.
    """
    emptied = _gone(heads, units)
    best = under(heads, units, costs, limit, multiple, emptied)
    if best is None:
        return []
    full = _holding(range(len(heads)), heads, partial(under, heads, units, costs, limit, multiple, emptied))
    found = [best] if full is None or full.shape == best.shape else [full, best]
    while True:
        tried = []
        for sublayer in ((kind, b) for kind in (0, 1) for b in range(len(heads))):
            if sublayer not in emptied and (1 - sublayer[0], sublayer[1]) not in emptied:
                kept = under(heads, units, costs, limit, multiple, emptied | {sublayer})
                if kept is not None and kept.score > found[-1].score * (1 + 1e-9):
                    tried.append((kept.score, sublayer, kept))
        if not tried:
            return found
        _, sublayer, best = max(tried, key=lambda each: each[0])
        emptied |= {sublayer}
        found.append(best)


def again(kept: Kept, heads: Each, units: Each, costs: Costs, limit: float, multiple: int) -> Kept | None:
    """A choice of the same kind under another limit: while there is room no other sublayer is emptied, and no other
    attention loses its last head. None where nothing fits."""
    held = [block for block, flags in enumerate(kept.heads) if flags.any()]
    within = [
        partial(under, heads, units, costs, limit, multiple, each) for each in (kept.emptied, _gone(heads, units))
    ]
    found = (_holding(held, heads, fit) for fit in within)
    return next((each for each in found if each is not None), None)


def _holding(blocks: Collection[int], heads: Each, fit: Callable[[Collection[int]], Kept | None]) -> Kept | None:
    """The best where a head stays in each of these blocks, or in as many as there is room for, those of the best heads;
    None where nothing fits. fit: the best where these blocks keep a head."""
    order = sorted(blocks, key=lambda block: -max(heads[block], default=0.0))
    found = (fit(order[:count]) for count in range(len(order), -1, -1))
    return next((kept for kept in found if kept is not None), None)


def _gone(heads: Each, units: Each) -> frozenset[Sublayer]:
    """The sublayers that have nothing to keep."""
    return frozenset(
        (kind, b) for kind, each in enumerate((heads, units)) for b, scores in enumerate(each) if not len(scores)
    )


def under(
    heads: Each,
    units: Each,
    costs: Costs,
    limit: float,
    multiple: int,
    emptied: frozenset[Sublayer],
    held: Collection[int] = (),
) -> Kept | None:
    """The best with the sublayers that are emptied given; held: blocks that keep a head. None where nothing fits."""
    attention = _Line(heads, costs.heads, 1, emptied, 0, held)
    feed = _Line(units, costs.widths, multiple, emptied, 1)
    if attention.least > len(attention.groups):  # every attention is to be emptied
        return None
    left = limit * (1 + 1e-12) - costs.fixed - attention.costs[attention.least :]
    many = np.searchsorted(feed.costs, left, side="right") - 1  # the most groups of units beside so many heads
    total = np.where(many >= feed.least, attention.scores[attention.least :] + feed.scores[many], -1.0)
    first = int(total.argmax())
    if total[first] < 0:
        return None
    both = attention.take(attention.least + first), feed.take(int(many[first]))
    return Kept(*both, float(total[first]), emptied)


class _Line:
    """The parts of one kind, of all blocks, the best first, in groups; what the first n of them score and cost.

    scores, costs   (groups + 1,) of the first n groups; costs are those of all blocks together
    least           the first so many stay whatever the price
    """

    def __init__(
        self,
        parts: Sequence[np.ndarray],
        row: Row,
        size: int,
        emptied: frozenset[Sublayer],
        kind: int,
        held: Collection[int] = (),
    ) -> None:
        self.parts = parts
        groups = []
        for block, scores in enumerate(parts):
            if (kind, block) not in emptied:
                order = np.argsort(-scores, kind="stable")
                must = kind == 1 or block in held or (1, block) in emptied  # its best group
                for start in range(0, len(order), size):
                    members = order[start : start + size]
                    mean = float(scores[members].mean())
                    groups.append((not (must and start == 0), -mean, block, start, members))
        groups.sort(key=lambda group: group[:4])
        self.groups = [(block, members) for _, _, block, _, members in groups]
        one = kind == 0 and any(map(len, parts))  # head at least, wherever the best is
        self.least = max(sum(not group[0] for group in groups), int(one))
        added = np.zeros((len(groups) + 1, len(parts)))
        for i, (block, members) in enumerate(self.groups, 1):
            added[i, block] = len(members)
        counts, prices = zip(*row, strict=True)
        self.costs = np.interp(added.cumsum(0), counts, prices).sum(1)
        own = [float(parts[block][members].sum()) for block, members in self.groups]
        self.scores = np.concatenate([[0.0], np.cumsum(own)])

    def take(self, count: int) -> Each:
        """Flags of the first so many groups."""
        kept = [np.zeros(len(each), bool) for each in self.parts]
        for block, members in self.groups[:count]:
            kept[block][members] = True
        return kept
