"""Keep some dimensions of the hidden size, cut the others out of all that stands along the residual stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from smidgen.anatomy import anatomy
from smidgen.edits._parts import cut, narrow, rising
from smidgen.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class KeepHidden:
    """dimensions: indices from 0, strictly rising, one or more.

    Norms then take mean and variance over what is left. Heads keep their size, so no plain config can say it: there the
    size of a head is the hidden size over the number of heads.
    """

    dimensions: tuple[int, ...]

    plain: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.dimensions or not rising(self.dimensions):
            raise InputError(
                f"KeepHidden got dimensions={str(self.dimensions)[:60]}, wanted a tuple of one or more indices counted "
                "from 0, each larger than the one before, such as (0, 2, 3)."
            )

    def apply_to(self, model: PreTrainedModel) -> None:
        from smidgen.stream import stream

        parts, found, kept = anatomy(model), stream(model), self.dimensions
        if kept[-1] >= found.size:
            raise InputError(
                f"KeepHidden got dimension {kept[-1]}, but this model's hidden size is {found.size}: use indices from "
                f"0 to {found.size - 1}."
            )
        if len(kept) == found.size:
            return
        tied = [(reader, table) for reader in found.readers for table in found.tables if _same(reader, table)]
        for module in (*found.tables, *found.norms):
            narrow(module, kept)
        for writer in found.writers:
            cut(writer, outputs=kept)
        reader: Any
        for reader in found.readers:
            side_by_side = range(reader.in_features // found.size)
            cut(reader, inputs=[part * found.size + i for part in side_by_side for i in kept])
        for reader, table in tied:
            reader.weight = table.weight
        configs: dict[int, Any] = {id(config): config for config in (model.config, parts.body.config)}
        for config in configs.values():
            config.hidden_size, config.head_dim = len(kept), parts.blocks[0].head_size  # ModernBERT's angles ask for it
            if found.tables and hasattr(config, "embedding_size"):
                config.embedding_size = len(kept)


def _same(reader: object, table: object) -> bool:
    return getattr(reader, "weight", None) is getattr(table, "weight", False)
