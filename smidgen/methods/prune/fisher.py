"""Cut heads and inner units to a price within minutes, without training, and mend what stays by least squares.

Idea       With a gate on each head and inner unit and g_i(x) the gradient of an example's loss by gate i, the Fisher
           information F_ij = sum_x g_i(x) g_j(x) says what shutting some of them costs: (1 - m)' F (1 - m) / 2. Search:
           the diagonal alone, sum_x g_i(x)^2, is what a part is worth, and the most worth stays that the price allows.
           Whole sublayers may go for their price, or a head may stay in each block, or in as many as there is room
           for: of models cut and tuned so, the one with the least loss on some rows is taken. A table of milliseconds
           adds up sublayers, and a model that is cut everywhere is not quite as fast as their sum: so what it leaves
           is measured, and up to twice sought anew under another limit, until it is as fast as was asked.
           Rearrangement: inside a block, a part that goes is exchanged for one that stays while that lowers
           sum_x (sum of g_i(x) over what goes)^2 (Kwon et al. 2022, arXiv:2204.09656). Tuning: from the bottom up, by
           least squares, so that each sublayer says what the uncut one says: `factors` on what stays, as there, or all
           `weights` that read it (Park, Choi and Kang 2024, arXiv:2308.03449). Squares are of each example's gradient,
           so neither batch size nor padding changes them.
Takes      A float model of a family with an anatomy, trained for its task, and labelled rows; of unlabelled ones a
           teacher's decisions.
Leaves     A float model with fewer heads and units, not as many in each block, the factors inside its weights; `found`
           in its record has the shape, the table, the price that was foretold and the one that was measured.
Beside     Nothing, as a stage of its own; or tune.full or distil.* in the same stage.
Fails      Where the price has no room for a head in each block: what is left may be at chance before it is trained
           on. Well before, training after it, or with it, does better. `price: int8` and `float32` are milliseconds of
           this machine: a table of them is measured first, in about a minute. Tables, and counts of operations, know
           full attention and whole matrices alone; of others milliseconds are right in the end, since what is left is
           measured.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
import torch
from torch import nn

from smidgen import clock
from smidgen.batch import Batch, agreed
from smidgen.clock import of_machine, shaped
from smidgen.edits.attach import attached
from smidgen.edits.keep_heads import KeepHeads
from smidgen.edits.keep_width import KeepWidth
from smidgen.errors import InputError, ModelError, NoEffect
from smidgen.gates import Gates
from smidgen.keeping import Each, Kept, again, choices
from smidgen.method import Context, Method, Needs, at_least, one_of
from smidgen.prices import Costs, Meter, Shape, held_against, left, shape_of
from smidgen.refit import refit, reweigh
from smidgen.surgery import apply, cuttable, fold

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from smidgen.edits import Edit

LEAST = 32  # rows that say anything
TINY = 1e-6  # of a block's whole Fisher information: an exchange that gains less is none
FITTED = 512  # rows at most that factors are fitted on: each token of them is an equation for every hidden unit
TRIED = 256  # rows at most that a choice is tuned and judged on
ROUNDS = 3  # times at most that a shape is measured before the model is cut to it
SHORT, OVER = 0.01, 0.08  # of the speed that was asked for: a shape that lacks, or has more, so little is the one
AIM = 0.03  # of it, that is sought above it, where a shape was measured to miss it


@final
@dataclass(frozen=True)
class Fisher(Method[None]):
    speedup: float = 1.5  # how many times less the cut model is to cost
    milliseconds: float | None = None  # instead of speedup: what a text is to take, at price float32 or int8
    price: str = "macs"  # what is counted: macs | float32 | int8, the milliseconds of a graph in that precision
    multiple: int = 32  # widths of feed-forwards are multiples of it
    rearrange: bool = True  # exchange parts inside a block, by their gradients together
    tune: str = "weights"  # what is fitted: weights that read what stays | factors on it | nothing
    rows: int = 2048  # examples to measure on; all there are where the data has fewer

    version: ClassVar[int] = 10
    needs: ClassVar[Needs] = Needs(examples=True)

    def faults(self) -> Iterator[str]:
        yield from at_least("speedup", self.speedup, 1)
        yield from one_of("price", self.price, ("macs", "float32", "int8"))
        yield from clock.faults(self.milliseconds, self.price)
        yield from at_least("multiple", self.multiple, 1)
        yield from one_of("tune", self.tune, ("weights", "factors", "nothing"))
        yield from at_least("rows", self.rows, LEAST)

    def reads(self) -> dict[str, str]:
        return of_machine(self.price)

    def looks(self) -> bool:
        return True  # at dev, how long its texts are

    def begin(self, ctx: Context) -> None:
        model = ctx.model
        assert model is not None
        cuttable(model)
        if beside := attached(model.base_model):
            kind = type(beside[0]).__module__.rpartition(".")[2]
            raise ModelError(
                f"prune.fisher: cannot fit weights under what {kind} put beside them. Cut first, attach after."
            )
        meter = ctx.sight.meter(self.price)
        speedup = clock.speedup("prune.fisher", meter, model, self.milliseconds) if self.milliseconds else self.speedup
        replace(self, speedup=speedup)._begin(ctx, model, meter)

    def _begin(self, ctx: Context, model: PreTrainedModel, meter: Meter) -> None:
        shape, costs = shape_of(model), meter.costs(model)
        limit = self._limit(meter, model, costs)
        nn.Module.to(model, "cuda" if torch.cuda.is_available() else "cpu")  # with the copies that are tried
        heads, units = slopes(model, ctx.sight.sample(self.rows))
        worth = squares(heads), squares(units)
        fit = choices(*worth, costs, limit, self.multiple)
        mend = functools.partial(exchanged, heads, units) if self.rearrange else lambda kept: kept
        fit = [mend(kept) for kept in fit]
        losses = [self._tried(ctx, kept) for kept in fit] if len(fit) > 1 else []
        kept = fit[int(np.argmin(losses))] if losses else fit[0]
        if kept.shape == shape:
            raise NoEffect(f"prune.fisher: {self._asked()} cuts nothing. Ask for more, or a lower multiple.")
        rounds = self._rounds(meter, model, costs, kept, lambda limit: again(kept, *worth, costs, limit, self.multiple))
        nearest = min(rounds, key=self._off)
        self._reached(nearest, rounds, costs, shape)
        kept = mend(nearest.kept) if nearest is not rounds[0] else kept
        uncut = copy.deepcopy(model)
        fitted = self._cut(model, uncut, kept, self._sample(ctx, FITTED), ctx.edit)
        both = {"before": uncut, "after": model}
        lost = {name: mean_loss(each, self._sample(ctx, TRIED)) for name, each in both.items()}
        measured = meter.measure({name: nn.Module.to(each, "cpu") for name, each in both.items()})
        ctx.found["prune.fisher"] = told(meter.unit, nearest.share, shape, shape_of(model), measured, lost) | {
            "asked": self.speedup,
            "milliseconds": self.milliseconds,
            "costs": costs.to_data(),
            "fitted": fitted,
            "tried": [{"after": each.shape, "loss": loss} for each, loss in zip(fit, losses, strict=False)],
            "rounds": [
                {"after": each.kept.shape, "speedup": each.speedup, "foretold": 1 / each.share} for each in rounds
            ],
        }
        if self._off(nearest)[0]:
            ctx.found["prune.fisher"]["told"] += (
                f" Of {len(rounds)} shapes that were timed none came to the {self.speedup:.4g} times that were "
                "asked for."
            )

    def _off(self, one: Round) -> tuple[bool, float]:
        """Is a shape too slow, and how far is it from what was asked?"""
        return self._slow(one.speedup), abs(math.log(one.speedup / self.speedup))

    def _reached(self, nearest: Round, rounds: Sequence[Round], costs: Costs, shape: Shape) -> None:
        """Refuse what no cut can reach: where the least that can stay was measured, and is too slow."""
        floor = costs.floor(shape, self.multiple) * (1 + 1e-9)
        if self._off(nearest)[0] and any(costs.predict(each.kept.shape) <= floor for each in rounds):
            raise self._refusal(nearest.speedup, shape)

    def _rounds(
        self, meter: Meter, model: PreTrainedModel, costs: Costs, kept: Kept, sought: Callable[[float], Kept | None]
    ) -> list[Round]:
        """Shapes that were measured: that of `kept`, and those of what is sought under other limits until one is near.

        A limit is read off the power law through the two nearest measurements, the uncut model's first of all.
        """
        whole = costs.predict(shape_of(model))
        limit, wanted = whole / self.speedup, math.log(self.speedup)
        rounds: list[Round] = []
        known = [(0.0, 0.0)]  # logarithms of a limit, as a share of the whole, and of the speedup under it
        for _ in range(ROUNDS):
            share = costs.predict(kept.shape) / whole
            rounds.append(Round(kept, gained(meter, model, kept.shape), share))
            known.append((math.log(limit / whole), math.log(rounds[-1].speedup)))
            right = abs(share * rounds[-1].speedup - 1) <= SHORT  # so that another limit would be met no better
            if -SHORT <= known[-1][1] - wanted <= OVER or (len(rounds) == 1 and right):
                break
            (x, y), (other, there) = sorted(known, key=lambda each: abs(each[1] - wanted))[:2]
            if y == there:
                break
            limit = whole * math.exp(x + (wanted + AIM - y) * (other - x) / (there - y))
            limit = max(limit, costs.floor(shape_of(model), self.multiple))
            found = sought(limit)
            if found is None or found.shape in [shape_of(model), *(each.kept.shape for each in rounds)]:
                break
            kept = found
        return rounds

    def _tried(self, ctx: Context, kept: Kept) -> float:
        """The loss a row of a copy that is cut and tuned."""
        assert ctx.model is not None
        trial, sample = copy.deepcopy(ctx.model), self._sample(ctx, TRIED)
        self._cut(trial, ctx.model, kept, sample, functools.partial(apply, trial))
        return mean_loss(trial, sample)

    def _sample(self, ctx: Context, most: int) -> Sequence[Batch]:
        return list(ctx.sight.sample(min(self.rows, most)))

    def _cut(
        self,
        model: PreTrainedModel,
        uncut: PreTrainedModel,
        kept: Kept,
        sample: Sequence[Batch],
        edit: Callable[[Edit], object],
    ) -> int:
        """Cut and tune the model, in place; how many sublayers were fitted. `uncut` stays as it is."""
        of_heads, of_units = ([each.astype(float) for each in flags] for flags in (kept.heads, kept.units))
        fitted = 0
        if self.tune == "factors":
            of_heads, of_units, fitted = refit(model, sample, kept.heads, kept.units)
        cut(model, shared(of_heads), shared(of_units), edit)
        return reweigh(model, uncut, sample) if self.tune == "weights" else fitted

    def _limit(self, meter: Meter, model: PreTrainedModel, costs: Costs) -> float:
        """What the cut model may cost. Where that is below the floor of the table, which is as rough as the table, the
        least model is measured."""
        shape = shape_of(model)
        whole, least = costs.predict(shape), costs.least(shape, self.multiple)
        limit, floor = whole / self.speedup, costs.predict(least)
        if self.speedup == 1:
            raise NoEffect("prune.fisher: speedup 1.0 cuts nothing. Ask for more, such as 1.5.")
        if limit < floor and self._slow(reached := gained(meter, model, least)):
            raise self._refusal(reached, shape)
        return max(limit, floor)

    def _slow(self, speedup: float) -> bool:
        return math.log(speedup / self.speedup) < -SHORT

    def _refusal(self, reached: float, shape: Shape) -> InputError:
        hollow = "" if all(width for _, width in shape) else ", a head where there are none,"
        could = clock.reachable(reached, self.speedup, self.milliseconds)
        return InputError(
            f"prune.fisher: {self._asked()} was asked for, but the least that can stay, one head in all and "
            f"{self.multiple} units in each block{hollow} costs {reached:.2f} times less than the model. Write "
            f"{could}, a lower multiple, or drop blocks first with prune.layers."
        )

    def _asked(self) -> str:
        return f"milliseconds {self.milliseconds}" if self.milliseconds else f"speedup {self.speedup}"


@dataclass(frozen=True)
class Round:
    """A choice, how many times faster than the uncut model one of its shape is, and its share of that model's price by
    the table."""

    kept: Kept
    speedup: float
    share: float


@torch.no_grad()
def mean_loss(model: PreTrainedModel, sample: Sequence[Batch]) -> float:
    """Of a row."""
    return float(agreed(torch.cat([batch.losses(model).double() for batch in sample]).mean()))


def gained(meter: Meter, model: PreTrainedModel, shape: Shape) -> float:
    """How many times less than the model one of that shape costs."""
    both = {"before": copy.deepcopy(model), "after": shaped(model, shape)}
    found = meter.measure({name: nn.Module.to(each, "cpu") for name, each in both.items()})
    return float(agreed(torch.tensor(found["before"] / found["after"])))


def slopes(model: PreTrainedModel, batches: Iterable[Batch]) -> tuple[Each, Each]:
    """Gradients of each row's loss by the gates: heads (rows, heads) and units (rows, width) a block, float32.

    Raises InputError where there are fewer rows than LEAST.
    """
    found: list[list[np.ndarray]] = []
    rows = 0
    with Gates(model) as gates:
        for batch in batches:
            filled = [*gates.fill("heads", len(batch)), *gates.fill("units", len(batch))]
            loss = batch.losses(model).sum()
            rows += len(batch)
            found.append([g.cpu().numpy() for g in torch.autograd.grad(loss, filled, materialize_grads=True)])
    if rows < LEAST:
        raise InputError(
            f"prune.fisher: got {rows} rows to measure on, wanted at least {LEAST}. Give more rows of training data, "
            "or unlabelled texts and a teacher."
        )
    both = [agreed(torch.from_numpy(np.concatenate(each))).numpy() for each in zip(*found, strict=True)]
    return both[: len(both) // 2], both[len(both) // 2 :]


def squares(slopes: Each) -> Each:
    """The diagonal of the Fisher information: the sum of squares over rows, float64."""
    return [(each.astype(np.float64) ** 2).sum(0) for each in slopes]


def rearranged(slopes: Each, kept: Each) -> Each:
    """As many kept in each block, exchanged one for one while that lowers sum_x (sum of what goes of g_i(x))^2."""
    return [_exchanged(each.astype(np.float64), flags) for each, flags in zip(slopes, kept, strict=True)]


def exchanged(heads: Each, units: Each, kept: Kept) -> Kept:
    """The choice with its parts exchanged inside each block; heads, units: their slopes."""
    return replace(kept, heads=rearranged(heads, kept.heads), units=rearranged(units, kept.units))


def _exchanged(slopes: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The best exchange, again and again, until none is left. slopes: (rows, parts)."""
    fisher, kept = slopes.T @ slopes, kept.copy()
    own, with_gone = fisher.diagonal(), fisher[:, ~kept].sum(1)  # of each part with the sum of what goes
    while kept.any() and not kept.all():
        new, old = np.flatnonzero(kept), np.flatnonzero(~kept)  # what may go, and what may stay for it
        gain = (own + 2 * with_gone)[new, None] + (own - 2 * with_gone)[old] - 2 * fisher[np.ix_(new, old)]
        i, j = np.unravel_index(gain.argmin(), gain.shape)
        if gain[i, j] >= -TINY * own.sum():
            break
        kept[new[i]], kept[old[j]] = False, True
        with_gone = with_gone + fisher[:, new[i]] - fisher[:, old[j]]
    return kept


def shared(factors: Each) -> Each:
    """The main process's, on every process."""
    sizes = np.cumsum([len(each) for each in factors])[:-1]
    return np.split(agreed(torch.from_numpy(np.concatenate(factors))).numpy(), sizes)


def cut(model: PreTrainedModel, heads: Each, units: Each, edit: Callable[[Edit], object]) -> None:
    """Fold the factors into the weights and cut what has none."""
    for block, (of_heads, of_units) in enumerate(zip(heads, units, strict=True)):
        fold(model, block, of_heads.tolist(), of_units.tolist())
        for kind, factors in ((KeepHeads, of_heads), (KeepWidth, of_units)):
            if not factors.all():
                edit(kind(block, tuple(np.flatnonzero(factors).tolist())))


def told(
    unit: str, share: float, before: Shape, after: Shape, measured: dict[str, float], lost: dict[str, float]
) -> dict[str, Any]:
    """What was cut, how far off the price was that steered it, and what it cost."""
    words, numbers = held_against(unit, share, measured)
    shapes = {"before": [list(each) for each in before], "after": [list(each) for each in after]}
    words += f". Mean loss on rows measured on: {lost['before']:.3f} before, {lost['after']:.3f} after"
    return {"told": f"{left(before, after)}, {words}.", **shapes, **numbers, "losses": lost}
