"""Keep some blocks of an encoder and drop the rest, at once or after training in which blocks were left out.

Idea       Neighbouring blocks do similar work, so every second one can go and training mends the seams (DistilBERT,
           Sanh et al. 2019, arXiv:1910.01108; Sajjad et al. 2020, arXiv:2004.03844). Rules for keeping k of n blocks:
           `uniform` evenly with the last one, b_i = floor((i + 1) n / k) - 1; `skip` evenly with the first one,
           b_i = floor(i n / k); `ends` evenly with both; `first`; `last`; `search`: the set with the least loss on dev,
           of all where they are few, else by leaving out one block after another. With drop > 0 each block is left out
           of a step with this probability, and the cut comes at the end of the stage (LayerDrop, Fan et al. 2019,
           arXiv:1909.11556). Trained once with keep: 1.0, a model bears cuts to several depths in stages after it.
Takes      A float model of a family with an anatomy. No data, but for `search`, which reads dev and its labels.
Leaves     A shallower float model that plain Hugging Face classes load.
Beside     Any training method in the same stage or after it: a cut model that is not trained is a poor one. With drop,
           not what looks inside a block.
Fails      Below a third of the blocks the start is worth less and less; other students are better there. LayerDrop is
           made for pretraining; in a few epochs on a task it teaches less than replace.theseus.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

from torch import nn

from smidgen.anatomy import Anatomy, anatomy
from smidgen.detours import Detours
from smidgen.edits._parts import unattached
from smidgen.edits.keep_blocks import KeepBlocks
from smidgen.errors import InputError, NoEffect
from smidgen.method import Context, Method, at_least, one_of
from smidgen.source import resolve
from smidgen.surgery import RULES, choose

FEW = 64  # sets of blocks that are all tried
LEAST = 16  # rows of dev that say anything


@final
@dataclass(frozen=True)
class Layers(Method[Detours | None]):
    keep: int | float | tuple[int, ...] = 3  # how many blocks stay, or what share of them, or which, counted from 0
    rule: str = "auto"  # uniform | skip | ends | first | last | search; auto = uniform, or ends if the first must stay
    drop: float = 0.0  # probability that a block is left out of a step of training; the cut is then made at the end

    def faults(self) -> Iterator[str]:
        if isinstance(self.keep, int):
            yield from at_least("keep", self.keep, 1)
        elif isinstance(self.keep, float):
            if not 0 < self.keep <= 1:
                yield f"keep: got {self.keep}, wanted a share above 0 and up to 1, or a whole number of blocks."
        elif not self.keep or self.keep[0] < 0 or list(self.keep) != sorted(set(self.keep)):
            yield f"keep: got {list(self.keep)}, wanted block numbers in rising order, such as [0, 2, 4]."
        yield from one_of("rule", self.rule, ("auto", *RULES, "search"))
        if not 0 <= self.drop < 1:
            yield f"drop: got {self.drop}, wanted a share from 0 and below 1."

    def reshapes(self) -> bool:
        return self.drop > 0

    def looks(self) -> bool:
        return self.rule == "search"

    def begin(self, ctx: Context) -> Detours | None:
        assert ctx.model is not None
        blocks = anatomy(ctx.model).blocks
        if isinstance(self.keep, tuple) and self.keep[-1] >= len(blocks):
            raise InputError(
                f"prune.layers: keep {list(self.keep)} names block {self.keep[-1]}, but this model has {len(blocks)}: "
                f"use 0 to {len(blocks) - 1}."
            )
        if self._count(len(blocks)) >= len(blocks) and not (self.drop and self.keep == 1.0):
            other = "write keep: 1.0 to train with drop alone" if self.drop else "drop it"
            raise NoEffect(
                f"prune.layers: keep {self.keep} of {len(blocks)} blocks cuts nothing. Keep fewer, or {other}."
            )
        if not self.drop:
            self._cut(ctx)
            return None
        if self._count(len(blocks)) < len(blocks):
            self._refuse_early(ctx)
        state = Detours(blocks, [()] * len(blocks), lambda t: 1 - self.drop, ctx.seed, ctx.student_taps)
        state.attach()
        return state

    def step(self, state: Detours | None, t: float) -> None:
        if state is not None:
            state.step(t)

    def end(self, state: Detours | None, ctx: Context) -> None:
        if state is None:
            return
        state.detach()
        if not state.stands["step"]:
            raise NoEffect("prune.layers: drop acts while a stage trains. Add what has a loss, as tune.full.")
        if self._count(len(state.blocks)) < len(state.blocks):
            self._cut(ctx)

    def _count(self, blocks: int) -> int:
        if isinstance(self.keep, tuple):
            return len(self.keep)
        return max(1, round(self.keep * blocks)) if isinstance(self.keep, float) else self.keep

    def _refuse_early(self, ctx: Context) -> None:
        """What the cut at the end would refuse, before anything is trained."""
        assert ctx.model is not None
        if (kept := self._by_rule(anatomy(ctx.model))) is not None:
            KeepBlocks(kept).check(ctx.model)
        else:
            unattached(ctx.model, "KeepBlocks", "blocks")
            self._enough(ctx)

    def _cut(self, ctx: Context) -> None:
        assert ctx.model is not None
        parts = anatomy(ctx.model)
        ctx.edit(KeepBlocks(self._by_rule(parts) or self._searched(ctx, self._count(len(parts.blocks)))))

    def _by_rule(self, parts: Anatomy) -> tuple[int, ...] | None:
        """Which blocks stay; None where that is searched."""
        if isinstance(self.keep, tuple):
            return self.keep
        if self.rule == "search":
            return None
        auto = "ends" if parts.pinned else "uniform"
        return choose(len(parts.blocks), self._count(len(parts.blocks)), auto if self.rule == "auto" else self.rule)

    def _enough(self, ctx: Context) -> None:
        """Refuse a dev that is too small to search by."""
        dev = ctx.sight.dev()
        if dev is not None and len(dev) < LEAST:
            raise InputError(
                f"prune.layers: rule search judges sets of blocks by their loss on dev, and dev has {len(dev)} rows, "
                f"wanted at least {LEAST}. Give more rows, or take another rule."
            )

    def _searched(self, ctx: Context, keep: int) -> tuple[int, ...]:
        assert ctx.model is not None
        if not self.drop and resolve(str(ctx.source)).head != ctx.task.name:
            raise InputError(
                f"prune.layers: rule search compares losses, and the model has no trained head for {ctx.task.name}. "
                "Fine-tune it in a stage before this one, or take another rule."
            )
        self._enough(ctx)
        parts, measure = anatomy(ctx.model), ctx.sight.dev_loss

        tried: dict[tuple[int, ...], float] = {}

        def loss(kept: tuple[int, ...]) -> float:
            with only(parts.block_list, kept):
                tried[kept] = measure()
            return tried[kept]

        kept = searched(len(parts.blocks), keep, loss, parts.pinned)
        best = sorted(tried, key=lambda each: (len(each) != keep, tried[each]))[:3]
        ctx.found["prune.layers"] = {
            "told": f"Of {len(tried)} sets of blocks that were tried these have the least loss on dev: "
            + ", ".join(f"{list(each)} {tried[each]:.3f}" for each in best if len(each) == keep)
            + ".",
            "tried": [{"kept": list(each), "loss": value} for each, value in tried.items()],
        }
        return kept


def searched(
    blocks: int, keep: int, loss: Callable[[tuple[int, ...]], float], pinned: Iterable[int] = ()
) -> tuple[int, ...]:
    """The `keep` of `blocks` blocks with the least loss; the first of equals.

    Where more than FEW sets would have to be tried, one block after another is left out, each time the one without
    which the loss is least.
    """
    held = set(pinned)
    if math.comb(blocks - len(held), keep - len(held)) <= FEW:
        sets = [kept for kept in itertools.combinations(range(blocks), keep) if held <= set(kept)]
        return min(sets, key=loss)
    kept = tuple(range(blocks))
    while len(kept) > keep:
        kept = min((tuple(i for i in kept if i != out) for out in kept if out not in held), key=loss)
    return kept


@contextmanager
def only(blocks: nn.ModuleList, kept: tuple[int, ...]) -> Iterator[None]:
    """The model has no other blocks than these inside the `with`."""
    whole = list(blocks)
    try:
        del blocks[:]
        blocks.extend(whole[i] for i in kept)
        yield
    finally:
        del blocks[:]
        blocks.extend(whole)
