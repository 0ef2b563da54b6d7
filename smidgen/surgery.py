"""Apply Edits to models, replay them, and write them as data; see `smidgen.edits`. And the choices that fill Edits.

`replay(skeleton, edits)`, the skeleton built from the config the model had before the first Edit, has the shape of the
edited model and takes its state dict. Importing this file imports no torch, so that plans and searches can `choose`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from smidgen.anatomy import anatomy
from smidgen.edits import Edit, kinds
from smidgen.edits._parts import rising, unattached
from smidgen.edits.keep_heads import KeepHeads
from smidgen.edits.keep_width import KeepWidth
from smidgen.errors import InputError, ModelError, did_you_mean
from smidgen.uneven import write_down

if TYPE_CHECKING:
    from transformers import PreTrainedModel

INDICES = "tuple[int, ...]"  # the type of fields that may hold many
MOST = 1_000_000  # indices that are read
MANY = 8  # indices; more of them are written as runs


def apply(model: PreTrainedModel, edit: Edit) -> PreTrainedModel:
    """Change the model in place, its config too, and return it; its class where its config has no word for the edit."""
    before = model.config.to_dict()
    edit.apply_to(model)
    write_down(model, edit, before)
    return model


def replay(skeleton: PreTrainedModel, edits: Iterable[Edit]) -> PreTrainedModel:
    """Apply the edits in order, in place. The result takes the state dict of the model that was edited."""
    for edit in edits:
        apply(skeleton, edit)
    return skeleton


def cuttable(model: PreTrainedModel, heads: object = True, units: object = True) -> None:
    """Nothing where heads, and inner units, of every block can be cut.

    Raises:
        ModelError: a family, or what stands in the place of a Linear, that KeepHeads or KeepWidth cannot cut; a graft
            that stands on them.
    """
    for wanted, edit, part in ((heads, "KeepHeads", "heads"), (units, "KeepWidth", "widths")):
        if wanted:
            unattached(model, edit, part)
    for block in anatomy(model).blocks:
        if heads:
            KeepHeads(block.index, tuple(range(block.heads))).apply_to(model)
        if units:
            KeepWidth(block.index, tuple(range(block.width))).apply_to(model)


def fold(model: PreTrainedModel, block: int, heads: Sequence[float] = (), units: Sequence[float] = ()) -> None:
    """Multiply a factor for each head, or each inner unit, of a block into the Linear that reads it, in place.

    A real-valued mask is folded in first; the Edit that drops its zeros then changes nothing but the shape.
    """
    import torch

    here = anatomy(model).blocks[block]
    for factors, linear, count, what in (
        (heads, here.out, here.heads, "heads"),
        (units, here.down, here.width, "inner units"),
    ):
        if not factors:
            continue
        if len(factors) != count:
            raise InputError(
                f"fold got {len(factors)} factors, but block {block} has {count} {what}: give one for each."
            )
        if all(factor == 1 for factor in factors):
            continue
        if not isinstance(linear, torch.nn.Module) or "weight" not in linear._parameters:
            raise ModelError(f"fold: {what} of block {block} are read by a {type(linear).__name__}, wanted a Linear.")
        with torch.no_grad():
            each = torch.tensor(factors, dtype=linear.weight.dtype, device=linear.weight.device)
            linear.weight *= each.repeat_interleave(linear.in_features // count)


def fold_hidden(model: PreTrainedModel, factors: Sequence[float]) -> None:
    """Multiply a factor for each dimension of the hidden size into all that writes into the residual stream and into
    its norms, in place; as gates on the hidden size act."""
    import torch

    from smidgen.stream import stream

    found = stream(model)
    if len(factors) != found.size:
        raise InputError(
            f"fold_hidden got {len(factors)} factors, but the hidden size is {found.size}: give one for each."
        )
    with torch.no_grad():
        for module in (*found.writers, *found.norms):
            for values in module.parameters(recurse=False):
                each = torch.tensor(factors, dtype=values.dtype, device=values.device)
                values.mul_(each[:, None] if values.dim() == 2 else each)


def rounded(keep: float, multiple: int, whole: int) -> int:
    """The width nearest to `keep` that is a multiple the hardware likes: at least one multiple, at most the whole.

    Halves go up. 0 stays 0, and the whole stays whole even where it is no multiple.
    """
    if keep <= 0 or keep >= whole:
        return 0 if keep <= 0 else whole
    return min(max(multiple, int(keep / multiple + 0.5) * multiple), whole)


def to_data(edits: Iterable[Edit]) -> list[dict[str, Any]]:
    """Edits as plain JSON values: `{"edit": "KeepBlocks", "blocks": [0, 2]}`.

    Where there are many indices, runs of them are written as first and last: 0, 1, ... 39, 42 is `[[0, 39], 42]`.
    """
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


def _listed(value: Any) -> Any:
    if not isinstance(value, (tuple, list)):
        return value
    if len(value) > MANY and rising(value):
        return _runs(value)
    return [_listed(item) for item in value]


def _runs(indices: Sequence[int]) -> list[Any]:
    """Rising indices; three or more in a row are written as the first and the last."""
    found: list[Any] = []
    for _, group in itertools.groupby(enumerate(indices), key=lambda pair: pair[1] - pair[0]):
        run = [index for _, index in group]
        found += run if len(run) < 3 else [[run[0], run[-1]]]
    return found


def _unrolled(indices: Sequence[Any]) -> list[Any]:
    """What `_runs` wrote, and any other list as it is."""
    if sum(item[1] - item[0] for item in indices if isinstance(item, list)) > MOST:
        raise InputError(f"edits: got a run of more than {MOST:,} indices, wanted a model's. Get the file whole.")
    return [i for item in indices for i in (range(item[0], item[1] + 1) if isinstance(item, list) else [item])]


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, (tuple, list)) else value


def _read(entry: Mapping[str, Any]) -> Edit:
    name = str(entry.get("edit"))
    known = kinds()
    if name not in known:
        raise InputError(f"edit is {name!r}.{did_you_mean(name, known)} Known edits: {', '.join(sorted(known))}.")
    given = {key: value for key, value in entry.items() if key != "edit"}
    wanted = {field.name: field.type for field in fields(known[name])}
    if set(given) != set(wanted):
        raise InputError(f"edit {name} got the fields {sorted(given)}, wanted {sorted(wanted)}.")
    return known[name](**{k: _frozen(_unrolled(v) if wanted[k] == INDICES else v) for k, v in given.items()})
