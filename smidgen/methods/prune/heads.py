"""Cut the attention heads that the loss would miss least.

Idea       With a gate g_h on each head, I_h = E_x |dL(x)/dg_h| at g_h = 1 is, to first order, how much the loss of an
           example moves without the head. I_h is divided by the l2 norm over the heads of its block, and the lowest of
           all blocks go, a part in each step, then measured anew (Michel, Levy, Neubig 2019, arXiv:1905.10650). The
           absolute value is of each example, so neither batch size nor padding changes it. `by: random` draws the
           heads, the baseline to put beside it: much of what is cut by importance could be cut by chance.
Takes      A float model of a family with an anatomy, trained for its task, and labelled rows; of unlabelled ones a
           teacher's decisions. No weight is trained.
Leaves     A float model with fewer heads, not as many in each block; `found` in its record has both, I_h, and the loss
           with all heads, with these, and with as many drawn at random.
Beside     Nothing, as a stage of its own; or tune.full or distil.* in the same stage, to mend what was cut.
Fails      Beyond 40 % of BERT's heads without training. Feed-forwards are two thirds of the work: without half of its
           heads BERT was 17 % faster in batches of 16 and more, 2 % faster alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
import torch

from smidgen.anatomy import anatomy
from smidgen.batch import Batch, agreed
from smidgen.edits.keep_heads import KeepHeads
from smidgen.errors import InputError, NoEffect
from smidgen.gates import Gates
from smidgen.method import Context, Method, Needs, at_least, one_of, share
from smidgen.surgery import cuttable

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LEAST = 32  # rows that say anything
DRAWS = 5  # of as many heads at random, beside those that are kept
PerHead = list[np.ndarray]  # (heads,) a block


@final
@dataclass(frozen=True)
class Heads(Method[None]):
    share: float = 0.4  # of all heads, to cut
    by: str = "importance"  # importance | random
    steps: int = 4  # in which they go; importance is measured anew before each
    normalise: bool = True  # importance by its norm over the heads of a block
    rows: int = 2048  # examples to measure on; all there are where the data has fewer
    least: int = 1  # heads that stay in each block; 0 = a block may lose its attention

    needs: ClassVar[Needs] = Needs(examples=True)

    def faults(self) -> Iterator[str]:
        yield from share("share", self.share)
        yield from one_of("by", self.by, ("importance", "random"))
        yield from at_least("steps", self.steps, 1)
        yield from at_least("rows", self.rows, LEAST)
        yield from at_least("least", self.least, 0)

    def begin(self, ctx: Context) -> None:
        assert ctx.model is not None
        cuttable(ctx.model, units=False)  # refuses what cannot be cut before it is measured
        blocks = anatomy(ctx.model).blocks
        heads = [block.heads for block in blocks]
        least = [max(self.least, 0 if block.width else 1) for block in blocks]  # a block cannot be empty
        count, rng = self._count(heads, least), np.random.default_rng(ctx.seed)
        told: dict[str, Any] = {"before": heads}

        def scores(kept: PerHead) -> PerHead:
            if self.by == "random":
                return [rng.random(len(each)) for each in kept]
            found = self._importance(ctx, kept)
            told.setdefault("importance", [each.tolist() for each in found])
            return normalised(found) if self.normalise else found

        kept = cut(heads, count, self.steps, least, scores)
        after = [int(each.sum()) for each in kept]
        told["told"] = f"{sum(after)} of {sum(heads)} heads are left."
        if self.by == "importance":
            drawn = {
                f"at_random_{i}": cut(heads, count, 1, least, lambda whole: [rng.random(len(each)) for each in whole])
                for i in range(DRAWS)
            }
            ways = {"all": [np.ones(each, bool) for each in heads], "kept": kept, **drawn}
            found = losses(ctx.model, ctx.sight.sample(self.rows), ways)
            chance = [found[name] for name in drawn]
            told["losses"] = {"all": found["all"], "kept": found["kept"], "at_random": chance}
            told["told"] += (
                f" Mean loss on the rows measured on: {found['all']:.3f} with all, {found['kept']:.3f} with these, "
                f"{np.mean(chance):.3f} with as many drawn at random ({min(chance):.3f} to {max(chance):.3f} in "
                f"{DRAWS} draws)."
            )
        for index, each in enumerate(kept):
            if not each.all():
                ctx.edit(KeepHeads(index, tuple(np.flatnonzero(each).tolist())))
        ctx.found["prune.heads"] = told | {"after": after}

    def _count(self, heads: Sequence[int], least: Sequence[int]) -> int:
        """How many heads go."""
        total, most = sum(heads), sum(max(each - few, 0) for each, few in zip(heads, least, strict=True))
        most = min(most, total - 1)  # without any head each text would get the same answer
        count = round(self.share * total)
        if count == 0:
            raise NoEffect(f"prune.heads: share {self.share} of {total} heads is none. Cut a larger share, or drop it.")
        if count > most:
            raise InputError(
                f"prune.heads: share {self.share} of {total} heads is {count}, but with least {self.least} in each of "
                f"{len(heads)} blocks{'' if any(least) else ', and one in all,'} only {most} can go. "
                f"Write a share up to {int(100 * most / total) / 100}, or a lower least."
            )
        return count

    def _importance(self, ctx: Context, kept: PerHead) -> PerHead:
        assert ctx.model is not None
        found = importance(ctx.model, ctx.sight.sample(self.rows), kept, LEAST)
        if not sum(each.sum() for each in found):
            raise InputError(
                f"prune.heads: on the rows that were drawn (rows: {self.rows}) the loss moves with no head, so none is "
                "less important. Give more rows, a model that is not so sure of them, or write by: random."
            )
        return found


def importance(model: PreTrainedModel, batches: Iterable[Batch], kept: PerHead, least: int = 1) -> PerHead:
    """E_x |dL(x)/dg_h| of each head while those that are not kept are shut: an array (heads,) a block, 0 for the shut.

    Raises InputError where there are fewer rows than `least`.
    """
    is_open = [torch.from_numpy(each).double() for each in kept]
    totals, rows = [torch.zeros_like(each) for each in is_open], 0
    with Gates(model) as gates:
        for batch in batches:
            filled = gates.fill("heads", len(batch))
            with torch.no_grad():
                for gate, each in zip(filled, is_open, strict=True):
                    gate.mul_(each.to(gate.device))
            loss = batch.losses(model).sum()
            slopes = torch.autograd.grad(loss, filled, materialize_grads=True)  # of each example: (B, heads) a block
            for total, each, slope in zip(totals, is_open, slopes, strict=True):
                total += each * slope.abs().sum(0).cpu()
            rows += len(batch)
    if rows < least:
        raise InputError(
            f"prune.heads: got {rows} rows to measure importance on, wanted at least {least}. Give more, or write by: "
            "random."
        )
    return [(agreed(total) / rows).numpy() for total in totals]


@torch.no_grad()
def losses(model: PreTrainedModel, batches: Iterable[Batch], ways: Mapping[str, PerHead]) -> dict[str, float]:
    """The mean loss while only the heads are open that a way keeps: (heads,) bool a block."""
    totals, rows = dict.fromkeys(ways, 0.0), 0
    with Gates(model) as gates:
        for batch in batches:
            for name, kept in ways.items():
                gates.heads = [torch.from_numpy(each).float().to(model.device) for each in kept]
                totals[name] += float(batch.losses(model).sum())
            rows += len(batch)
    return {name: total / rows for name, total in totals.items()}


def normalised(scores: PerHead) -> PerHead:
    """Divided by the l2 norm over the heads of each block."""
    return [each / max(float(np.linalg.norm(each)), 1e-20) for each in scores]


def cut(
    heads: Sequence[int], count: int, steps: int, least: Sequence[int], scores: Callable[[PerHead], PerHead]
) -> PerHead:
    """Which heads stay, (heads,) bool a block, after `count` went in steps, the lowest of the scores first.

    Args:
        least: how many stay in each block.
        scores: asked anew in each step, of the heads that are still kept.
    """
    kept = [np.ones(each, bool) for each in heads]
    for left in sum(heads) - np.unique(np.rint(np.linspace(0, count, steps + 1)))[1:]:
        found = scores(kept)
        places = [(score, b, h) for b, each in enumerate(found) for h, score in enumerate(each) if kept[b][h]]
        for _, block, head in sorted(places):
            if sum(each.sum() for each in kept) > left and kept[block].sum() > least[block]:
                kept[block][head] = False
    return kept
