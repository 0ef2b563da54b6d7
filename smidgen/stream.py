"""The residual stream: the states that all blocks read and add to, and which of a model's modules stand along it.

One hidden size is shared by all of these, so what goes from it goes from each of them at once: by the Edit KeepHidden,
by gates (`smidgen.gates`), or folded into the weights (`smidgen.surgery.fold_hidden`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from smidgen.anatomy import Anatomy, anatomy
from smidgen.edits.attach import attached
from smidgen.errors import ModelError
from smidgen.hollow import Constant, Nothing

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, eq=False)
class Stream:
    """The modules are the model's own.

    Where a head predicts tokens with the table of the embeddings, what it reads them from has the same axis. A pooler
    reads the stream and gives a vector of its own, as wide as before.
    """

    size: int
    tables: tuple[nn.Embedding, ...]  # vectors of tokens, positions and types; none where they are projected
    writers: tuple[nn.Module, ...]  # Linears whose outputs are states, or a Constant
    norms: tuple[nn.LayerNorm, ...]  # over states
    readers: tuple[nn.Module, ...]  # Linears whose inputs are states, or several side by side; or a Nothing


def stream(model: PreTrainedModel) -> Stream:
    """Read it again after each Edit.

    Raises ModelError for a model whose hidden size is not one axis of plain modules.
    """
    parts = anatomy(model)
    _refuse(model, parts)
    blocks = [block.module for block in parts.blocks]
    readers: list[nn.Module] = [m for b in parts.blocks for m in (b.query, b.key, b.value, b.up)]
    writers: list[nn.Module] = [m for b in parts.blocks for m in (b.out, b.down)]
    norms = _all(nn.LayerNorm, [*blocks, *filter(None, [parts.norm])])
    tables: list[nn.Embedding] = []
    if parts.project is not None:
        writers.append(parts.project)
    else:
        tables, norms = _all(nn.Embedding, [parts.embeddings]), [*_all(nn.LayerNorm, [parts.embeddings]), *norms]
    inside, pooler = set(parts.body.modules()), getattr(parts.body, "pooler", None)
    above = [*(pooler.modules() if pooler else ()), *(module for module in model.modules() if module not in inside)]
    reader = next((module for module in above if isinstance(module, nn.Linear)), None)
    if reader is not None:
        readers.append(reader)
        decoder: Any = model.get_output_embeddings()
        if decoder is not None and decoder is not reader and tables:
            writers.append(reader)
            norms += [module for module in above if isinstance(module, nn.LayerNorm)]
            readers.append(decoder)
    return Stream(parts.hidden_size, tuple(tables), _once(writers), _once(norms), _once(readers))


def _refuse(model: PreTrainedModel, parts: Anatomy) -> None:
    if any(block.attend is None for block in parts.blocks):
        raise ModelError(
            f"the hidden size of {parts.family} cannot be cut: its blocks work at a width of their own. Drop whole "
            "blocks with KeepBlocks, or take a model of another family."
        )
    if attached(model.base_model):
        raise ModelError("the hidden size cannot be cut under what Attach put beside it. Cut first, attach after.")
    plain = (nn.Linear, nn.Embedding, Constant, Nothing)
    at: list[tuple[str, Any]] = [("the table of the embeddings", model.get_input_embeddings())]
    for block in parts.blocks:
        linears = (block.query, block.key, block.value, block.out, block.up, block.down)
        at += [(f"a matrix of block {block.index}", linear) for linear in linears]
    for what, module in at:
        if not isinstance(module, plain):
            raise ModelError(
                f"the hidden size cannot be cut: {what} is {type(module).__name__}. Cut first, factor after."
            )


def _all(kind: type[Any], roots: Iterable[nn.Module]) -> list[Any]:
    return [module for root in roots for module in root.modules() if isinstance(module, kind)]


def _once(modules: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(modules))
