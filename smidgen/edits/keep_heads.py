"""Keep some attention heads of one block, cut the others out of its projections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from smidgen.edits._parts import block_of, check_fields, check_range, cut, unattached

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class KeepHeads:
    """heads: indices from 0, strictly rising; () = none, and of the attention the bias of its output stays.

    Hugging Face configs have no word for it: the size of a head is the hidden size over the number of heads.
    """

    block: int
    heads: tuple[int, ...]

    plain: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_fields("KeepHeads", self.block, "heads", self.heads)

    def apply_to(self, model: PreTrainedModel) -> None:
        from smidgen.hollow import NoHeads, hollow

        block = block_of(model, "KeepHeads", self.block)
        check_range("KeepHeads", self.block, "heads", self.heads, block.heads, block.width)
        if len(self.heads) == block.heads:
            return
        unattached(model, "KeepHeads", "heads")
        size, count = block.head_size, block.heads
        inside = [head * size + i for head in self.heads for i in range(size)]
        outside = [part * count * size + i for part in range(3 if block.fused else 1) for i in inside]
        projections = {block.query, block.key, block.value}
        for linear in projections:
            cut(linear, outputs=outside)
        cut(block.out, inputs=inside)
        whole: Any = block.attend
        for name, value in (("num_attention_heads", 1), ("n_heads", 1), ("all_head_size", size)):
            if hasattr(whole, name):
                setattr(whole, name, value * len(self.heads))
        if self.heads:
            block.tell(self.heads)
        else:
            hollow(whole, NoHeads, projections, block.out, block.attend_norm)
