"""Write one matrix as the product of two thin ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from smidgen.anatomy import anatomy
from smidgen.edits._parts import put, unattached
from smidgen.errors import InputError, ModelError, did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MATRICES = ("query", "key", "value", "out", "up", "down")
TABLE = "embeddings"


@dataclass(frozen=True)
class Factor:
    """matrix: of a block, `query` standing for all three where they are one; or `embeddings`, of block -1.

    rank: of the product. It starts as the nearest one to the matrix; see `smidgen.factors`.
    """

    block: int
    matrix: str
    rank: int

    plain: ClassVar[bool] = False

    def __post_init__(self) -> None:
        known = (*MATRICES, TABLE)
        if self.matrix not in known:
            raise InputError(
                f"Factor got matrix={self.matrix!r}, wanted one of {', '.join(known)}."
                f"{did_you_mean(self.matrix, known)}"
            )
        if (self.block == -1) != (self.matrix == TABLE) or self.block < -1:
            raise InputError(
                f"Factor got block={self.block} for {self.matrix}, wanted a block's number, counted from 0; -1 for "
                f"{TABLE} alone."
            )
        if self.rank < 1:
            raise InputError(f"Factor got rank={self.rank}, wanted at least 1.")

    def apply_to(self, model: PreTrainedModel) -> None:
        from torch import nn

        from smidgen.factors import FactoredEmbedding, FactoredLinear, largest_rank

        parts = anatomy(model)
        if self.block >= len(parts.blocks):
            raise InputError(
                f"Factor got block {self.block}, but this model has {len(parts.blocks)} blocks: use indices from 0 to "
                f"{len(parts.blocks) - 1}."
            )
        table = self.matrix == TABLE
        if not table:
            unattached(model, "Factor", "matrices")
        root = parts.embeddings if table else parts.blocks[self.block].module
        old: Any = model.get_input_embeddings() if table else getattr(parts.blocks[self.block], self.matrix)
        if table and model.get_output_embeddings() is not None:
            raise ModelError("Factor cannot split a table that tokens are predicted with too. Leave the embeddings.")
        if not isinstance(old, (nn.Linear, nn.Embedding)):
            raise ModelError(f"Factor: {self.matrix} of block {self.block} is {type(old).__name__}. Leave it.")
        most = largest_rank(*old.weight.shape)
        if self.rank > most:
            raise InputError(
                f"Factor got rank {self.rank} for {self.matrix}, {' x '.join(map(str, old.weight.shape))}, which would "
                f"not shrink it: use at most {most}."
            )
        made: Any = FactoredLinear if isinstance(old, nn.Linear) else FactoredEmbedding
        put(root, old, made(old, self.rank))
