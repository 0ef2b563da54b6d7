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
PLAIN = (type(None), bool, int, float, str, bytes, enum.Enum, torch.dtype, torch.device)
CODE = (type, FunctionType, BuiltinFunctionType)
UNSEEN = object()  # something that a trace may depend on, and that cannot be compared


def structure(module: nn.Module) -> tuple[Any, ...] | None:
    """Equal, and hashable, for modules that differ in the values of their parameters alone.

    None where that cannot be said: for hooks, a `forward` of its own, tensors that are neither parameters nor buffers,
    or anything else that is not known here.
    """
    found = tuple(_all(module))
    return None if UNSEEN in found else found


def _all(module: nn.Module) -> Iterator[Any]:
    for name, part in module.named_modules():
        yield from (name, type(part), *_settings(part))
    first: dict[int, str] = {}  # names of parameters; the second name of a shared one says whose it is
    for name, values in module.named_parameters(remove_duplicate=False):
        yield from (name, *_tensor(values), first.setdefault(id(values), name))
    for name, buffer in module.named_buffers():
        numbers = buffer.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        yield from (name, *_tensor(buffer), hashlib.sha256(numbers.tobytes()).hexdigest())


def _tensor(values: torch.Tensor) -> tuple[Any, ...]:
    return tuple(values.shape), values.dtype, values.device


def _settings(part: Any) -> Iterator[Any]:
    for name in sorted(vars(part).keys() - ELSEWHERE - ORIGIN):
        yield from (name, *_told(vars(part)[name]))


def _told(value: Any) -> Iterator[Any]:
    """The same, to be compared and hashed, with its type, since 1 is True."""
    yield type(value)
    if isinstance(value, PLAIN + CODE) and getattr(value, "__closure__", None) is None:
        yield value
    elif hasattr(value, "__dict__") and (isinstance(value, PreTrainedConfig) or dataclasses.is_dataclass(value)):
        yield from _settings(value)
    elif isinstance(value, Mapping | tuple | list):
        yield len(value)
        for each in value.items() if isinstance(value, Mapping) else value:
            yield from _told(each)
    elif isinstance(value, set | frozenset):
        yield from sorted(map(repr, value)) if all(isinstance(each, PLAIN) for each in value) else [UNSEEN]
    else:
        yield UNSEEN
