"""Where the parts of a model are: methods speak of heads, widths and blocks, never of a family's attributes.

One file per family beside this one. A file declares `model_types`, the names that a Hugging Face config may have for
it, and `parts(model) -> Anatomy`, or, where tokens have states and there is nothing to take apart, as in an LSTM,
`states(model) -> States`. Adding a family is adding a file. Nothing here imports torch before one of these runs.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from types import ModuleType
from typing import TYPE_CHECKING

from smidgen.anatomy._parts import Anatomy, Block, States
from smidgen.errors import ModelError, did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "PREFIX",
    "Anatomy",
    "Block",
    "States",
    "anatomy",
    "families",
    "has_states",
    "plain_type",
    "states",
    "supported",
]

PREFIX = "smidgen-"  # before the family's own model_type, where a plain config cannot describe the model


@functools.cache
def _files() -> dict[str, ModuleType]:
    """The family files by model type."""
    names = sorted(found.name for found in pkgutil.iter_modules(__path__) if not found.name.startswith("_"))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return {model_type: module for module in modules for model_type in module.model_types}


def families() -> tuple[str, ...]:
    """Every model type that can be taken apart, sorted."""
    return tuple(sorted(model_type for model_type, module in _files().items() if hasattr(module, "parts")))


def plain_type(model_type: str) -> str:
    """`bert` for `smidgen-bert`, the model_type of uneven BERTs; any other as it is."""
    bare = model_type.removeprefix(PREFIX)
    return bare if bare in _files() else model_type


def supported(model_type: str) -> bool:
    """Whether models whose config says this `model_type` can be taken apart."""
    return plain_type(model_type) in families()


def has_states(model_type: str) -> bool:
    """Whether the states of their tokens are known, which is less."""
    return plain_type(model_type) in _files()


def states(model: PreTrainedModel) -> States:
    """Where the states of a model's tokens are. Read it again after each Edit.

    Raises ModelError when they are not known.
    """
    model_type = plain_type(model.config.model_type)
    if not has_states(model_type):
        raise ModelError(
            f"model_type is {model_type!r}: smidgen knows no states of its tokens.{did_you_mean(model_type, _files())} "
            f"Give a model of one of {', '.join(sorted(_files()))}, or ask for the logits alone."
        )
    module = _files()[model_type]
    found: States = module.states(model) if hasattr(module, "states") else module.parts(model).states
    return found


def anatomy(model: PreTrainedModel) -> Anatomy:
    """The parts of a model: a bare body or one with a task head. Read it again after each Edit.

    Raises ModelError when the family is not known.
    """
    model_type = plain_type(model.config.model_type)
    if has_states(model_type) and not supported(model_type):
        raise ModelError(
            f"model_type is {model_type!r}, which smidgen cannot take apart: its tokens have states, but there are no "
            "heads and no feed-forwards. Use what asks for states or logits, as distil.hidden and distil.logits do, or "
            f"give a model of one of {', '.join(families())}."
        )
    if not supported(model_type):
        raise ModelError(
            f"model_type is {model_type!r}, which smidgen cannot take apart.{did_you_mean(model_type, families())} "
            f"Supported: {', '.join(families())}. Give a model of one of these; any other model can still be a "
            f"teacher of which only the logits are asked."
        )
    return _files()[model_type].parts(model)
