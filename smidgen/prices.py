"""What a model costs by the shape of its blocks: in operations, or in milliseconds that were measured.

    cost = fixed + sum over blocks of attention(heads) + feed_forward(width)

    meter = Macs(length=20)                          or the clock of smidgen.clock
    costs = meter.costs(model)                       a table, of blocks of the model's geometry
    costs.predict([(12, 1536), (3, 512)])            of a model with two such blocks

A method that cuts to a price takes `ctx.sight.meter(unit)` and does not know which of the two it has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from smidgen.anatomy import anatomy

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Shape = Sequence[tuple[int, int]]  # heads and width of each block
Row = tuple[tuple[int, float], ...]  # (how many, cost), rising in both; straight lines between


@dataclass(frozen=True)
class Costs:
    """A table of what the sublayers of one geometry cost. All is in `unit`."""

    unit: str  # MACs | ms | weights
    fixed: float  # what no cut inside a block changes: embeddings, head, tokenizer, sums and norms between sublayers
    heads: Row  # an attention by its heads, from 0 to all
    widths: Row  # a feed-forward by its width, from 0 to all

    def attention(self, heads: float) -> float:
        return _between(self.heads, heads)

    def feed_forward(self, width: float) -> float:
        return _between(self.widths, width)

    def predict(self, shape: Shape) -> float:
        """The cost of a model whose blocks have these heads and widths."""
        return self.fixed + sum(self.attention(heads) + self.feed_forward(width) for heads, width in shape)

    def least(self, shape: Shape, units: int = 1) -> list[tuple[int, int]]:
        """The least that a model of this shape can be cut to: so few units in each block and one head in all, or one in
        each block that has no units, since a block cannot be empty.
        """
        found = [(0, min(units, width)) if width else (1, 0) for _, width in shape]
        able = [block for block, (heads, _) in enumerate(shape) if heads]
        if able and not any(heads for heads, _ in found):
            found[able[-1]] = (1, found[able[-1]][1])
        return found

    def floor(self, shape: Shape, units: int = 1) -> float:
        """What that costs."""
        return self.predict(self.least(shape, units))

    def to_data(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Costs:
        """The table that `to_data` wrote, also after JSON."""
        rows = {name: tuple((int(count), float(cost)) for count, cost in data[name]) for name in ("heads", "widths")}
        return cls(data["unit"], data["fixed"], **rows)


class Meter(Protocol):
    """Makes tables, and measures whole models in the same unit."""

    @property
    def unit(self) -> str: ...

    def costs(self, model: PreTrainedModel, hidden: int = 0) -> Costs:
        """The table of the geometry that this model has, or had before its blocks were cut.

        hidden: of another hidden size; 0 = the model's.
        """

    def measure(self, models: Mapping[str, PreTrainedModel]) -> dict[str, float]:
        """The cost of each, side by side in one run."""


@dataclass(frozen=True)
class Macs:
    """Multiplications with additions that the blocks make of one text; exact.

    A head of size s at hidden size d reads L tokens with 4 L d s, and compares them with 2 L L s. An inner unit takes
    2 L d, of a gated feed-forward 3 L d.
    """

    length: float  # tokens of a text: the mean of the data's
    unit: str = "MACs"

    def costs(self, model: PreTrainedModel, hidden: int = 0) -> Costs:
        parts, length = anatomy(model), self.length
        block, hidden = parts.blocks[0], hidden or parts.hidden_size
        head = 4 * length * hidden * block.head_size + 2 * length**2 * block.head_size
        unit = (3 if block.gated else 2) * length * hidden
        heads, width = widest(model)
        return Costs(self.unit, 0.0, ((0, 0.0), (heads, heads * head)), ((0, 0.0), (width, width * unit)))

    def measure(self, models: Mapping[str, PreTrainedModel]) -> dict[str, float]:
        return {name: self.costs(model).predict(shape_of(model)) for name, model in models.items()}


def weights(model: PreTrainedModel, hidden: int = 0) -> Costs:
    """Weights that the blocks multiply with, biases left out: 4 d s of a head, 2 d of an inner unit, 3 d if gated.

    hidden: d, another one than the model's.
    """
    parts = anatomy(model)
    block, hidden = parts.blocks[0], hidden or parts.hidden_size
    heads, width = widest(model)
    head, unit = 4 * hidden * block.head_size, (3 if block.gated else 2) * hidden
    return Costs("weights", 0.0, ((0, 0.0), (heads, heads * head)), ((0, 0.0), (width, width * unit)))


def shape_of(model: PreTrainedModel) -> list[tuple[int, int]]:
    """Heads and width of each block."""
    return [(block.heads, block.width) for block in anatomy(model).blocks]


def left(before: Shape, after: Shape) -> str:
    """What of one shape is left in another, in words."""
    (heads, units), (some, few) = ((sum(each) for each in zip(*shape, strict=True)) for shape in (before, after))
    return f"{some} of {heads} heads and {few:,} of {units:,} inner units are left"


def held_against(unit: str, share: float, measured: Mapping[str, float]) -> tuple[str, dict[str, Any]]:
    """What a cut model costs (`after`) beside the share of the uncut one's (`before`) that was foretold, in words and
    as numbers. Shares, since a machine is not as fast in one hour as in the next.
    """
    foretold = share * measured["before"]
    error, speedup = foretold / measured["after"] - 1, measured["before"] / measured["after"]
    words = f"at {amount(measured['after'], unit)}, {speedup:.2f} times less than before"
    if unit == "ms":
        words += f"; {amount(foretold, unit)} was foretold ({error:+.1%})"
    numbers = {"foretold": foretold, "measured": measured["after"], "error": error, "speedup": speedup}
    return words, {"unit": unit, **numbers}


def amount(value: float, unit: str) -> str:
    return f"{value:.3f} ms" if unit == "ms" else f"{value / 1e6:.3g} million {unit}"


def widest(model: PreTrainedModel) -> tuple[int, int]:
    """The most heads and the largest width of any block."""
    heads, widths = zip(*shape_of(model), strict=True)
    return max(1, *heads), max(1, *widths)


def _between(row: Row, at: float) -> float:
    counts, costs = zip(*row, strict=True)
    return float(np.interp(at, counts, costs))
