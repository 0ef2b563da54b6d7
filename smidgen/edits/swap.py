"""Put attention of another kind in the place of some blocks' own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from smidgen.anatomy import Block, anatomy
from smidgen.anatomy._parts import product
from smidgen.attention import kind, kinds
from smidgen.edits._parts import rising, unattached
from smidgen.errors import InputError, ModelError, did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Swap:
    """blocks: from 0, strictly rising. attention: a file of smidgen/attention. numbers: its SETTINGS in order."""

    blocks: tuple[int, ...]
    attention: str
    numbers: tuple[int, ...] = ()

    plain: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.blocks or not rising(self.blocks):
            raise InputError(
                f"Swap got blocks={self.blocks!r}, wanted a tuple of one or more indices counted from 0, each larger "
                f"than the one before, such as (0, 2, 4)."
            )
        if self.attention not in kinds():
            raise InputError(
                f"Swap got attention={self.attention!r}, wanted one of {', '.join(kinds())}."
                f"{did_you_mean(self.attention, kinds())}"
            )

    def apply_to(self, model: PreTrainedModel) -> None:
        parts, made = anatomy(model), kind(self.attention)
        if len(self.numbers) != len(made.SETTINGS) or any(type(n) is not int or n < 1 for n in self.numbers):
            wanted = ", ".join(made.SETTINGS) or "none"
            raise InputError(f"Swap got numbers={self.numbers!r} for {self.attention}, wanted {wanted}, from 1.")
        if self.blocks[-1] >= len(parts.blocks):
            raise InputError(
                f"Swap got block {self.blocks[-1]}, but this model has {len(parts.blocks)} blocks: use indices from 0 "
                f"to {len(parts.blocks) - 1}."
            )
        unattached(model, "Swap", "attention")
        for index in self.blocks:
            self._check(parts.family, parts.blocks[index])
        for index in self.blocks:
            made.swap(parts.blocks[index], **dict(zip(made.SETTINGS, self.numbers, strict=True)))

    def _check(self, family: str, block: Block) -> None:
        """What does not suit another attention."""
        why = ""
        if block.attend is None or block.fused:
            why = f"{family} makes its queries, keys and values in a way of its own"
        elif not block.heads:
            why = "it has no heads left"
        elif hasattr(block.attend, "mix") or block.key.out_features != block.query.out_features:
            why = "its attention has been swapped already"
        elif self.attention != "multi_query" and block.score is not product:
            why = f"{family} adds a bias to the scores of all pairs of tokens, which another attention would not know"
        if why:
            raise ModelError(
                f"Swap cannot put {self.attention} attention in block {block.index}: {why}. Supported are BERT, "
                "RoBERTa, ELECTRA and DistilBERT; multi_query in MPNet too."
            )
