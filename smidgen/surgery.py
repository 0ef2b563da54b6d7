"""The closed set of Edits: structural changes of a model, recorded as data and replayed to load.

An Edit speaks in the coordinates of the model at that moment: after KeepBlocks((0, 2, 4)) the next Edit sees blocks
0, 1 and 2. `replay(skeleton, edits)`, the skeleton built from the config the model had before the first Edit, has
the shape of the edited model and takes its state dict.

Adding an Edit is adding one frozen dataclass with `apply_to`, and naming it in `Edit`.
Importing this file imports no torch, so that plans and searches can `choose` blocks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, TypeAlias

from smidgen.anatomy import anatomy
from smidgen.errors import InputError, ModelError, did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class KeepBlocks:
    """Keep these Transformer blocks, drop the others.

    blocks: indices from 0, strictly increasing. The Hugging Face config still describes the model afterwards.
    """

    blocks: tuple[int, ...]

    def __post_init__(self) -> None:
        if not _rising(self.blocks):
            raise InputError(
                f"KeepBlocks got blocks={self.blocks!r}, wanted a tuple of one or more indices counted from 0, each "
                f"larger than the one before, such as (0, 2, 4)."
            )

    def apply_to(self, model: PreTrainedModel) -> None:
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
        for index in reversed(range(count)):
            if index not in self.blocks:
                del parts.block_list[index]
        _renumber(model)
        for config in {id(config): config for config in (model.config, parts.body.config)}.values():
            _describe(config, self.blocks)


Edit: TypeAlias = KeepBlocks
_KINDS = {kind.__name__: kind for kind in (KeepBlocks,)}


def apply(model: PreTrainedModel, edit: Edit) -> PreTrainedModel:
    """Change the model in place, its config too, and return it."""
    edit.apply_to(model)
    return model


def replay(skeleton: PreTrainedModel, edits: Iterable[Edit]) -> PreTrainedModel:
    """Apply the edits in order, in place. The result takes the state dict of the model that was edited."""
    for edit in edits:
        apply(skeleton, edit)
    return skeleton


def to_data(edits: Iterable[Edit]) -> list[dict[str, Any]]:
    """Edits as plain JSON values: `{"edit": "KeepBlocks", "blocks": [0, 2]}`."""
    return [{"edit": type(edit).__name__} | {k: _listed(v) for k, v in asdict(edit).items()} for edit in edits]


def from_data(data: Iterable[Mapping[str, Any]]) -> tuple[Edit, ...]:
    """The edits that `to_data` wrote. Raises InputError for an unknown kind or other fields than the kind has."""
    return tuple(_read(entry) for entry in data)


def choose(blocks: int, keep: int, rule: str) -> tuple[int, ...]:
    """Which `keep` of `blocks` blocks to keep, as indices from 0.

    uniform  evenly spaced, ends with the last block: 12 to 4 is 2, 5, 8, 11   (TinyBERT's mapping g(m) = 3m)
    skip     evenly spaced, starts with the first block: 12 to 6 is 0, 2, 4, 6, 8, 10
    ends     evenly spaced from the first block to the last: 12 to 6 is 0, 2, 4, 7, 9, 11   (DistilBERT)
    first    the blocks nearest the embeddings
    last     the blocks nearest the head

    One block is the last one for `uniform` and `last`, else the first. `keep == blocks` is all of them.
    """
    if rule not in RULES:
        raise InputError(f"rule is {rule!r}.{did_you_mean(rule, RULES)} Use one of {', '.join(sorted(RULES))}.")
    if not 1 <= keep <= blocks:
        raise InputError(f"keep is {keep}, but this model has {blocks} blocks: use 1 to {blocks}.")
    return tuple(RULES[rule](blocks, keep))


def _uniform(blocks: int, keep: int) -> Sequence[int]:
    return [(i + 1) * blocks // keep - 1 for i in range(keep)]


def _skip(blocks: int, keep: int) -> Sequence[int]:
    return [i * blocks // keep for i in range(keep)]


def _ends(blocks: int, keep: int) -> Sequence[int]:
    gaps = max(keep - 1, 1)
    return [(2 * i * (blocks - 1) + gaps) // (2 * gaps) for i in range(keep)]  # i * (blocks - 1) / gaps, rounded


RULES = {
    "ends": _ends,
    "first": lambda blocks, keep: range(keep),
    "last": lambda blocks, keep: range(blocks - keep, blocks),
    "skip": _skip,
    "uniform": _uniform,
}


def _rising(indices: object) -> bool:
    """Whether this is a tuple of at least one index, strictly increasing from 0 or more."""
    if not isinstance(indices, tuple) or not indices or any(type(i) is not int for i in indices):
        return False
    return indices[0] >= 0 and all(before < after for before, after in itertools.pairwise(indices))


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


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, (tuple, list)) else value


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, (tuple, list)) else value


def _read(entry: Mapping[str, Any]) -> Edit:
    name = str(entry.get("edit"))
    if name not in _KINDS:
        raise InputError(f"edit is {name!r}.{did_you_mean(name, _KINDS)} Known edits: {', '.join(sorted(_KINDS))}.")
    given = {key: _frozen(value) for key, value in entry.items() if key != "edit"}
    wanted = {field.name for field in fields(_KINDS[name])}
    if set(given) != wanted:
        raise InputError(f"edit {name} got the fields {sorted(given)}, wanted {sorted(wanted)}.")
    return _KINDS[name](**given)
