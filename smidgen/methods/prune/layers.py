"""Keep some blocks of an encoder and drop the rest, so that a student starts from its teacher.

Idea       Neighbouring blocks do similar work, so every second one can go and training mends the seams (DistilBERT,
           Sanh et al. 2019, arXiv:1910.01108; Sajjad et al. 2020, arXiv:2004.03844). Rules for keeping k of n blocks:
           `uniform` evenly with the last one, b_i = floor((i + 1) n / k) - 1; `skip` evenly with the first one,
           b_i = floor(i n / k); `ends` evenly with both; `first`; `last`.
Takes      A float model of a family with an anatomy. No data.
Leaves     A shallower float model that plain Hugging Face classes load.
Beside     Any training method in the same stage or after it: a cut model that is not trained is a poor one.
Fails      Below a third of the blocks the start is worth less and less; other students are better there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from smidgen.anatomy import anatomy
from smidgen.edits.keep_blocks import KeepBlocks
from smidgen.errors import NoEffect
from smidgen.method import Context, Method, at_least, one_of
from smidgen.surgery import RULES, choose


@final
@dataclass(frozen=True)
class Layers(Method[None]):
    keep: int | float | tuple[int, ...] = 3  # how many blocks stay, or what share of them, or which, counted from 0
    rule: str = "auto"  # uniform | skip | ends | first | last; auto = uniform, or ends where the first block must stay

    def faults(self) -> Iterator[str]:
        if isinstance(self.keep, int):
            yield from at_least("keep", self.keep, 1)
        elif isinstance(self.keep, float):
            if not 0 < self.keep < 1:
                yield f"keep: got {self.keep}, wanted a share between 0 and 1, or a whole number of blocks."
        elif not self.keep or self.keep[0] < 0 or list(self.keep) != sorted(set(self.keep)):
            yield f"keep: got {list(self.keep)}, wanted block numbers in rising order, such as [0, 2, 4]."
        yield from one_of("rule", self.rule, ("auto", *RULES))

    def begin(self, ctx: Context) -> None:
        assert ctx.model is not None
        here = anatomy(ctx.model)
        blocks, rule = len(here.blocks), self.rule
        if rule == "auto":
            rule = "ends" if here.pinned else "uniform"
        keep = max(1, round(self.keep * blocks)) if isinstance(self.keep, float) else self.keep
        if isinstance(keep, int) and keep >= blocks:
            raise NoEffect(
                f"prune.layers: keep {self.keep} of {blocks} blocks changes nothing. Keep fewer, or drop it."
            )
        kept = choose(blocks, keep, rule) if isinstance(keep, int) else keep
        if len(kept) == blocks:
            raise NoEffect(f"prune.layers: keep {list(kept)} keeps all {blocks} blocks. Keep fewer, or drop it.")
        ctx.edit(KeepBlocks(tuple(kept)))
