"""Keep some Transformer blocks, drop the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from smidgen.anatomy import anatomy
from smidgen.edits._parts import rising, unattached
from smidgen.errors import InputError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class KeepBlocks:
    """blocks: indices from 0, strictly rising."""

    blocks: tuple[int, ...]

    plain: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.blocks or not rising(self.blocks):
            raise InputError(
                f"KeepBlocks got blocks={self.blocks!r}, wanted a tuple of one or more indices counted from 0, each "
                f"larger than the one before, such as (0, 2, 4)."
            )

    def check(self, model: PreTrainedModel) -> None:
        """Raise what keeps it from being applied to a model."""
        parts = anatomy(model)
        count = len(parts.blocks)
        if self.blocks[-1] >= count:
            raise InputError(
                f"KeepBlocks got block {self.blocks[-1]}, but this model has {count} blocks: use indices from 0 to "
                f"{count - 1}."
            )
        if self.blocks[: len(parts.pinned)] != parts.pinned:
            raise ModelError(
                f"KeepBlocks{self.blocks} drops block 0. {parts.family} builds whichever block comes first without a "
                f"norm before its attention, so another block in that place would lose its norm when the model is "
                f"loaded again. Keep block 0: take the rule 'ends', 'skip' or 'first', or blocks such as "
                f"{(0, *self.blocks[1:])}."
            )
        if len(self.blocks) < count:
            unattached(model, "KeepBlocks", "blocks")

    def apply_to(self, model: PreTrainedModel) -> None:
        self.check(model)
        parts = anatomy(model)
        for index in reversed(range(len(parts.blocks))):
            if index not in self.blocks:
                del parts.block_list[index]
        _renumber(model)
        for config in {id(config): config for config in (model.config, parts.body.config)}.values():
            _describe(config, self.blocks)


def _describe(config: Any, kept: Sequence[int]) -> None:
    """Make a Hugging Face config say which blocks are left."""
    kinds = getattr(config, "layer_types", None)
    config.num_hidden_layers = len(kept)
    if kinds is not None:
        config.layer_types = [kinds[i] for i in kept]


def _renumber(model: PreTrainedModel) -> None:
    """Set the numbers that Hugging Face modules keep of themselves."""
    parts = anatomy(model)
    module: Any
    for index, block in enumerate(parts.block_list):
        for module in block.modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                module.layer_idx = index
    for module in parts.body.modules():
        if isinstance(getattr(module, "n_layers", None), int):
            module.n_layers = len(parts.block_list)
