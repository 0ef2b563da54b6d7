"""What a trace of a module depends on, so that what was traced once is not traced again for other weights.

A trace is made by the code, the settings and the shapes of a module; its parameters only fill it.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

# Where a module or a configuration came from.
ORIGIN = frozenset({"name_or_path", "_name_or_path", "_commit_hash", "transformers_version"})
# Told by their names; the last two are the parameters of an RNN once more.
ELSEWHERE = frozenset({"_parameters", "_buffers", "_modules", "_flat_weights", "_flat_weight_refs"})
PLAIN = (type(None), bool, int, float, complex, str, bytes, enum.Enum, torch.dtype, torch.device, torch.layout)


class Unseen(Exception):
    """Something that a trace may depend on, and that cannot be compared."""


def structure(module: nn.Module) -> tuple[Any, ...] | None:
    """Equal, and hashable, for modules that differ in the values of their parameters alone.

    None where that cannot be said: for hooks, a `forward` of its own, tensors that are neither parameters nor buffers,
    or anything else that is not known here.
    """
    try:
        return (
            tuple((name, type(part), _settings(part)) for name, part in module.named_modules()),
            tuple(_parameters(module)),
            tuple((name, *_tensor(buffer), _hash(buffer)) for name, buffer in module.named_buffers()),
        )
    except Unseen:
        return None


def _settings(part: Any) -> tuple[Any, ...]:
    mine = {name: value for name, value in vars(part).items() if name not in ELSEWHERE | ORIGIN}
    return tuple((name, _plain(value)) for name, value in sorted(mine.items()))


def _parameters(module: nn.Module) -> Iterator[tuple[Any, ...]]:
    """By name, also the second name of one that is shared, which says whose it is."""
    first: dict[int, str] = {}
    for name, values in module.named_parameters(remove_duplicate=False):
        yield name, *_tensor(values), first.setdefault(id(values), name)


def _tensor(values: torch.Tensor) -> tuple[Any, ...]:
    return tuple(values.shape), values.dtype, values.device


def _hash(values: torch.Tensor) -> str:
    return hashlib.sha256(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()


def _plain(value: Any) -> Any:
    """The same, to be compared and hashed, with its type, since 1 is True."""
    if isinstance(value, PLAIN):
        return type(value), value
    if isinstance(value, type | BuiltinFunctionType) or (isinstance(value, FunctionType) and not value.__closure__):
        return value
    if isinstance(value, PreTrainedConfig):
        return type(value), _settings(value)
    if dataclasses.is_dataclass(value):
        return type(value), tuple((each.name, _plain(getattr(value, each.name))) for each in dataclasses.fields(value))
    if isinstance(value, Mapping):
        return type(value), tuple((_plain(key), _plain(each)) for key, each in value.items())
    if isinstance(value, tuple | list):
        return type(value), tuple(map(_plain, value))
    if isinstance(value, set | frozenset):
        return type(value), frozenset(map(_plain, value))
    raise Unseen(type(value).__name__)
