"""Keep some inner units of one block's feed-forward, cut the others out of both of its Linears."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from smidgen.edits._parts import block_of, check_fields, check_range, cut, unattached

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class KeepWidth:
    """units: indices from 0, strictly rising; () = none, and of the feed-forward the bias of its output stays.

    A unit of a gated feed-forward is a row of either half of `up`. Once all blocks have one width again, a plain config
    can say it; see `smidgen.uneven`.
    """

    block: int
    units: tuple[int, ...]

    plain: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_fields("KeepWidth", self.block, "units", self.units)

    def apply_to(self, model: PreTrainedModel) -> None:
        from smidgen.hollow import NoUnits, hollow

        block = block_of(model, "KeepWidth", self.block)
        check_range("KeepWidth", self.block, "units", self.units, block.width, block.heads)
        if len(self.units) == block.width:
            return
        unattached(model, "KeepWidth", "widths")
        halves = range(2 if block.gated else 1)
        cut(block.up, outputs=[half * block.width + unit for half in halves for unit in self.units])
        cut(block.down, inputs=self.units)
        if not self.units:
            whole: Any = block.feed
            hollow(whole, NoUnits, {block.up}, block.down, block.feed_norm)
