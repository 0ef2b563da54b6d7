"""Gates that are learnt while a model trains, under a price that falls; in the end what they have shut can be cut.

    state = Gating(model, ("heads", "units"), costs, keep=0.5, multiple=32, warmup=0.3, rate=0.05, seed=0)
    state.attach()                 drawn gates while the model trains, settled ones while it is judged
    loss = loss + state.penalty()
    state.step(t)                  after each step; t = the share of the training that is done
    state.detach()
    cut = state.decide()           what stays, and the factors to fold into it

The gates of a step follow from the seed and the number of the step alone, so a step that is cut, several processes and
a resumed run see the same ones.

A model without any head gives each text the same answer. So where all heads are shut the one that was open the most,
or all of its block where heads have no gates of their own, is open after all, in training as in the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from smidgen.anatomy import anatomy
from smidgen.concrete import chance, draw, settled
from smidgen.gates import KINDS, Gates
from smidgen.prices import Costs, Row, Shape, shape_of
from smidgen.surgery import rounded

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ALL = (*KINDS, "hidden")
FAR = 200.0  # log a of what has no gate
OPEN = 3.0  # log a of a new gate: z is 1 in four draws of five, 0 in one of a hundred
WIDE = 2 * OPEN  # of one on the hidden size, which all blocks lose at once: the others go first, as in CoFi's code
STEEP, SLOW = 30.0, 0.3  # l2 at the start, and the multipliers' rate beside the gates': without, the share swings
NOISE = 2.0  # p of `Gating.aim`, or its inverse, that a machine was disturbed to give
LEAST = 1e-3  # a gate of the hidden size that stays: norms leave out what is 0
NARROW = (("heads", "attention"), ("units", "feed_forward"))  # the parts of a sublayer, and the sublayer


@dataclass(frozen=True, eq=False)
class Cut:
    """What stays, and what is multiplied into it.

    kept      bool by kind, `heads` and `units`, of each block: (heads,) and (width,); of `hidden`, where that has
              gates, one for the model: (hidden size,)
    factors   the same, 0 for what goes; the sublayer's own gate is inside
    shift     by how much all gates were opened (or shut, below 0) to meet the price; 0 = training had met it
    """

    kept: dict[str, list[Tensor]]
    factors: dict[str, list[Tensor]]
    shift: float


class Gating(nn.Module):
    """A method's state. See the module's text. All of it is float64: the price of a unit is small beside the whole.

    stands: how many steps are done, and the share of the stage. keep: the share of the price that may stay. measured:
    says what share of its price a model of a shape and hidden size is measured to be, where that is not exact.

    Args:
        on: what has gates: kinds of `smidgen.gates`, and `hidden`.
        costs: of the model's geometry.
        narrow: the same at half of its hidden size, where that has gates; what is between and below is on a straight
            line through the two, which is exact for operations and weights.
        keep: the share of the model's price that may stay.
        multiple: widths are multiples of it in the end.
        warmup: the share of training in which the target falls from 1 to `keep`.
        rate: the learning rate of the gates.
    """

    stands: Tensor
    keep: Tensor

    def __init__(
        self,
        model: PreTrainedModel,
        on: Collection[str],
        costs: Costs,
        keep: float,
        multiple: int,
        warmup: float,
        rate: float,
        seed: int,
        narrow: Costs | None = None,
    ) -> None:
        super().__init__()
        self.gates, self.shape, self.costs, self.narrow = Gates(model, "hidden" in on), shape_of(model), costs, narrow
        self.hidden = anatomy(model).hidden_size
        self.multiple, self.warmup, self.rate, self.seed = multiple, warmup, rate, seed
        self.whole = costs.predict(self.shape)
        blocks = [1] * len(self.shape)
        heads, widths = ([counts[i] for counts in self.shape] for i in (0, 1))
        self.sizes = dict(zip(ALL, (heads, widths, blocks, blocks, [self.hidden]), strict=True))
        rng = np.random.default_rng(seed)  # a little apart: equal gates would all be shut in one moment
        start = {
            kind: (WIDE if kind == "hidden" else OPEN) + 0.01 * rng.standard_normal(sum(self.sizes[kind]))
            for kind in ALL
            if kind in on
        }
        self.log_alpha = nn.ParameterDict({kind: torch.from_numpy(each) for kind, each in start.items()})
        self.multipliers = nn.Parameter(torch.tensor([0.0, STEEP], dtype=torch.double))
        self.register_buffer("stands", torch.zeros(2, dtype=torch.double))
        self.asked = keep
        self.register_buffer("keep", torch.tensor(keep, dtype=torch.double))
        self.measured: Callable[[Shape, int], float] | None = None
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._cut: Cut | None = None  # of the weights as they are

    def groups(self) -> list[dict[str, Any]]:
        """Of the optimiser; multipliers climb. What one gate costs is small beside Adam's usual eps."""
        own = {"weight_decay": 0.0, "betas": (0.9, 0.99), "eps": 1e-12}
        gates = {"params": list(self.log_alpha.values()), "lr": self.rate, **own}
        return [gates, {"params": [self.multipliers], "lr": SLOW * self.rate, "maximize": True, **own}]

    def step(self, t: float) -> None:
        """One step of training is done, and this share of the stage."""
        self.stands.copy_(torch.tensor([float(self.stands[0]) + 1, t], dtype=torch.double))
        self._cut = None

    # While the model runs.

    def attach(self) -> None:
        self.gates.attach()
        self._handles.append(self.gates.model.register_forward_pre_hook(lambda model, args: self._set(model.training)))

    def detach(self) -> None:
        self.gates.remove()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _set(self, training: bool) -> None:
        if not training:
            self._cut = self._cut or self.decide()
        found = self.drawn() if training or self._cut is None else self._cut.factors
        for kind in KINDS:
            setattr(self.gates, kind, found.get(kind) or [None] * len(self.shape))
        (self.gates.hidden,) = found.get("hidden", [None])

    def drawn(self) -> dict[str, list[Tensor]]:
        """The gates of this step, as `smidgen.gates` takes them."""
        rng = np.random.default_rng([self.seed, int(self.stands[0])])
        found = {}
        for kind, log_alpha in self.log_alpha.items():
            noise = torch.from_numpy(rng.uniform(1e-6, 1 - 1e-6, len(log_alpha))).to(log_alpha)
            found[kind] = self._each(kind, draw(log_alpha, noise))
        heads, attention = (found.get(kind) or self._of(kind) for kind in NARROW[0])
        if any(self.sizes["heads"]) and not any(h.any() and z.any() for h, z in zip(heads, attention, strict=True)):
            block = self._most_open()
            for kind in {*NARROW[0]} & {*found}:
                few = _first(self._of(kind)[block], 1) if kind == "heads" else torch.tensor(True)
                found[kind][block] = few.to(self.multipliers)
        return found

    def _each(self, kind: str, values: Tensor) -> list[Tensor]:
        """Of each block: (heads,) or (width,), or () of a sublayer. Of the model: (hidden size,)."""
        return list(values.unbind() if kind in ("attention", "feed_forward") else values.split(self.sizes[kind]))

    def shut(self) -> list[int]:
        """Blocks whose feed-forward is shut, by its own gate or by those of all its units."""
        found = set()
        for kind in ("units", "feed_forward"):
            if kind in self.log_alpha:
                each = self._each(kind, settled(self.log_alpha[kind]))
                found |= {b for b, gates in enumerate(each) if not gates.any()}
        return sorted(found)

    # The price.

    def target(self) -> float:
        """The share of the price that may stand in this step."""
        return 1 - (1 - float(self.keep)) * (min(1.0, float(self.stands[1]) / self.warmup) if self.warmup else 1.0)

    def price(self, shape: Shape, hidden: int) -> float:
        """Of a model whose blocks have these heads and widths, at a hidden size."""
        whole = self.costs.predict(shape)
        if self.narrow is None:
            return whole
        half = min(self.narrow.predict(shape), whole)  # noise may have it take more
        return max(0.0, half + self._beyond(hidden) * (whole - half))

    def _beyond(self, hidden: Any) -> Any:
        """How far a hidden size is from half of the whole: 0, to the whole: 1."""
        return (hidden - self.hidden // 2) / (self.hidden - self.hidden // 2)

    def share(self) -> Tensor:
        """The share of the price that stands where as many parts are open as on average. A scalar with a gradient."""
        whole = self._stands(self.costs)
        if self.narrow is None:
            return whole
        half = torch.minimum(self._stands(self.narrow), whole)
        return half + self._beyond(chance(self.log_alpha["hidden"]).sum()) * (whole - half)

    def _stands(self, costs: Costs) -> Tensor:
        """The same by one table."""
        total = self.multipliers.new_tensor(costs.fixed / self.whole)
        for i, ((part, sublayer), row) in enumerate(zip(NARROW, (costs.heads, costs.widths), strict=True)):
            counts = total.new_tensor([counts[i] for counts in self.shape])
            if part in self.log_alpha:
                counts = torch.stack([each.sum() for each in self._each(part, chance(self.log_alpha[part]))])
            cost, empty = line(hull(row), counts), line(hull(row), torch.zeros_like(counts))
            if sublayer in self.log_alpha:
                cost = empty + chance(self.log_alpha[sublayer]) * (cost - empty)
            total = total + cost.sum() / self.whole
        return total

    def least(self) -> float:
        """The share that stands with all gates shut."""
        return self._price_at(-FAR / 2) / self.whole

    def penalty(self) -> Tensor:
        """The Lagrangian l1 (s - t) + l2 (s - t)^2 of the share s and the target t; l1 and l2 climb."""
        gap = self.share() - self.target()
        return self.multipliers[0] * gap + self.multipliers[1] * gap**2

    # What stays.

    def decide(self) -> Cut:
        """The most that the price allows: in each sublayer as many parts as its gates have open on average, those that
        are open the most, all gates moved by the same shift until the price is met."""
        shift = self._shift()
        stays = list(zip(*self._live(self.shape_at(shift)), strict=True))
        kept, factors = {}, {}
        for (part, sublayer), counts in zip(NARROW, stays, strict=True):
            each = self._of(part)
            kept[part] = [_first(alphas, count) for alphas, count in zip(each, counts, strict=True)]
            whole = settled(torch.stack(self._of(sublayer)))
            values = [k * settled(a) * z for k, a, z in zip(kept[part], each, whole, strict=True)]
            if part == "heads" and not any(value.any() for value in values):
                block = self._most_open()
                values[block] = 1.0 * kept[part][block]
            factors[part] = [value.to(self.multipliers) for value in values]
        if "hidden" in self.log_alpha:
            (alphas,) = self._of("hidden")
            kept["hidden"] = [_first(alphas, self.hidden_at(shift))]
            values = [k * settled(alphas).clamp(min=LEAST) for k in kept["hidden"]]
            factors["hidden"] = [value.to(self.multipliers) for value in values]
        return Cut(kept, factors, shift)

    def _live(self, shape: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """The same without parts whose gates are shut: they would cost, and say nothing. A block cannot be empty."""
        many = []
        for part, sublayer in NARROW:
            opened = [settled(a) * settled(z) > 0 for a, z in zip(self._of(part), self._of(sublayer), strict=True)]
            many.append([int(each.sum()) for each in opened])
        many[0] = self._held([min(heads, few) for (heads, _), few in zip(shape, many[0], strict=True)])
        found = []
        for (heads, width), few, narrow, (_, whole) in zip(shape, *many, self.shape, strict=True):
            units = min(width, -(-narrow // self.multiple) * self.multiple, whole)
            live = (few, units)
            found.append(live if any(live) else (heads, width))
        return found

    def shape_at(self, shift: float) -> list[tuple[int, int]]:
        """Heads and widths that stay where all gates are opened by `shift`. A block cannot be empty."""
        many = []
        for part, sublayer in NARROW:
            is_open = chance(torch.stack(self._of(sublayer)) + shift)
            if part not in self.log_alpha:
                is_open = (is_open >= 0.5).double()
            many.append([float(chance(a + shift).sum() * o) for a, o in zip(self._of(part), is_open, strict=True)])
        stay, found = self._held([int(each + 0.5) for each in many[0]]), []
        for (heads, width), few, narrow in zip(self.shape, stay, many[1], strict=True):
            units = rounded(narrow, self.multiple, width) if narrow >= min(self.multiple, width) / 2 else 0
            found.append((few, units) if units or few else self._least(heads, width))
        return found

    def _held(self, heads: list[int]) -> list[int]:
        """How many heads stay in each block: where it would be none of all, one, or all of its block; see the module's
        text."""
        if any(heads):
            return heads
        block = self._most_open()
        least = 1 if "heads" in self.log_alpha else self.sizes["heads"][block]
        return [min(least, self.sizes["heads"][block]) if b == block else 0 for b in range(len(heads))]

    def _most_open(self) -> int:
        """The block of the head that is open the most."""
        gates = zip(self._of("heads"), self._of("attention"), strict=True)
        return int(np.argmax([max((chance(a) * chance(z)).tolist(), default=-1.0) for a, z in gates]))

    def hidden_at(self, shift: float) -> int:
        """The hidden size that stays: at least one multiple."""
        if "hidden" not in self.log_alpha:
            return self.hidden
        many = float(chance(self.log_alpha["hidden"].detach().cpu() + shift).sum())
        return rounded(max(many, 1.0), self.multiple, self.hidden)

    def aimed(self) -> tuple[list[tuple[int, int]], int]:
        """Heads and widths, and the hidden size, of what would be cut now."""
        shift = self._shift()
        return self._live(self.shape_at(shift)), self.hidden_at(shift)

    def aim(self, keep: float) -> float:
        """Set the target so that the like of what would be cut now is measured to be this share of the price; give p,
        where a share s by the table is measured to be s ** p. Beyond NOISE nothing is learnt, and the target stays."""
        assert self.measured is not None
        shape, hidden = self.aimed()
        foretold, found = self.price(shape, hidden) / self.whole, self.measured(shape, hidden)
        power = math.log(found) / math.log(foretold) if 0 < found < 1 and foretold < 1 else 0.0
        if not 1 / NOISE <= power <= NOISE:
            return 1.0
        self.keep.fill_(keep ** (1 / power))
        self._cut = None
        return power

    def _price_at(self, shift: float) -> float:
        return self.price(self.shape_at(shift), self.hidden_at(shift))

    def _of(self, kind: str) -> list[Tensor]:
        """log a by block in float64; far open where there are no gates of that kind."""
        if kind in self.log_alpha:
            return self._each(kind, self.log_alpha[kind].detach().cpu())
        return self._each(kind, torch.full((sum(self.sizes[kind]),), FAR, dtype=torch.double))

    def _least(self, heads: int, width: int) -> tuple[int, int]:
        if width:
            return 0, (min(self.multiple, width) if "units" in self.log_alpha else width)
        return 1 if "heads" in self.log_alpha else heads, 0

    def _shift(self) -> float:
        """The largest under which the price is met, by halving."""
        low, high = -FAR / 2, FAR / 2
        while high - low > 1e-9:
            middle = (low + high) / 2
            if self._price_at(middle) > float(self.keep) * self.whole:
                high = middle
            else:
                low = middle
        return low


def line(row: Row, at: Tensor) -> Tensor:
    """A row of costs at some counts, straight between its points: (n,) -> (n,), with a gradient."""
    counts, costs = (at.new_tensor(each) for each in zip(*row, strict=True))
    after = torch.searchsorted(counts, at.detach()).clamp(1, len(row) - 1)
    slope = (costs[after] - costs[after - 1]) / (counts[after] - counts[after - 1])
    return costs[after - 1] + slope * (at - counts[after - 1])


def hull(row: Row) -> Row:
    """The lower convex hull of a row of costs: where a measured row is flat, no gate would be worth shutting."""
    kept: list[tuple[int, float]] = []
    for at, cost in row:
        while len(kept) > 1:
            (first, low), (middle, cost_there) = kept[-2:]
            if (cost_there - low) * (at - first) < (cost - low) * (middle - first):
                break
            kept.pop()
        kept.append((at, cost))
    return tuple(kept)


def _first(alphas: Tensor, count: int) -> Tensor:
    """Flags of the highest so many."""
    kept = torch.zeros(len(alphas), dtype=torch.bool)
    kept[alphas.argsort(descending=True, stable=True)[:count]] = True
    return kept
