"""Grafts: small tensors beside a frozen model that act by hooks. A file a kind, found by walking.

The same module serves three ends. A method of `tune` trains it. `smidgen.edits.attach.Attach` makes it a part of the
model, where its numbers cannot be folded into the weights. And `stacked` puts the tensors of many tasks on top of each
other, (tasks, ...), so that the rows of one batch each pick their own: no loop over tasks, and one graph for all of
them.

A file holds one subclass of `Graft`; its name is the kind. Nothing here imports torch before `kind` runs.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from smidgen.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from smidgen.grafts._parts import Graft

__all__ = ["build", "kind", "kinds", "stacked"]


@functools.cache
def kinds() -> tuple[str, ...]:
    """All of them, sorted."""
    return tuple(sorted(found.name for found in pkgutil.iter_modules(__path__) if not found.name.startswith("_")))


@functools.cache
def kind(name: str) -> type[Graft]:
    """The class of a kind. Raises InputError where there is none."""
    from smidgen.grafts._parts import Graft

    if name not in kinds():
        raise InputError(f"graft is {name!r}.{did_you_mean(name, kinds())} Use one of {', '.join(kinds())}.")
    module = importlib.import_module(f"{__name__}.{name}")
    found = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, Graft) and v is not Graft]
    (only,) = (cls for cls in found if cls.__module__ == module.__name__)
    return only


def build(model: PreTrainedModel, name: str, settings: Mapping[str, Any]) -> Graft:
    """A new graft of a kind for a model, which changes nothing yet: of one task, not attached.

    Raises:
        InputError: no such kind or setting.
        ModelError, NoEffect: the kind does not suit the model, or would do nothing to it.
    """
    cls = kind(name)
    if wrong := sorted(set(settings) - set(cls.defaults)):
        raise InputError(f"graft {name} got the settings {', '.join(wrong)}, wanted {', '.join(cls.defaults)}.")
    graft = cls({**cls.defaults, **settings})
    graft.grow(model)
    return graft


def stacked(
    model: PreTrainedModel, name: str, tasks: Sequence[tuple[Mapping[str, Any], Mapping[str, Tensor]] | None]
) -> Graft:
    """One graft that holds the tensors of many: entry t of `tasks` are settings and tensors of task t, None = none.

    Each tensor is padded with zeros to the largest of its name, and a task without any has zeros, which by the contract
    of kinds changes nothing. Settings other than the kind's `sizes` have to agree: see `Graft.key`.
    """
    import torch

    given = [entry for entry in tasks if entry is not None]
    cls = kind(name)
    full = [{**cls.defaults, **settings} for settings, _ in given]
    if len({cls.key(settings) for settings in full}) != 1:
        raise InputError(f"graft {name}: got settings that differ in more than {', '.join(cls.sizes) or 'nothing'}.")
    graft = build(model, name, cls.widest(full))
    for where, holder in list(graft.named_modules()):
        for key, own in [*holder._parameters.items(), *holder._buffers.items()]:
            path = f"{where}.{key}" if where else key
            delattr(holder, key)
            assert own is not None
            there = [entry[1][path].shape for entry in given if path in entry[1]] or [own.shape]
            whole = torch.zeros(len(tasks), *map(max, zip(*there, strict=True)), dtype=own.dtype)
            for row, entry in zip(whole, tasks, strict=True):
                if entry is not None and path in entry[1]:
                    part = entry[1][path]
                    row[tuple(slice(size) for size in part.shape)] = part
            holder.register_buffer(key, whole)
    return graft
