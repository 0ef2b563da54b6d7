"""What the blocks of a model get and give, heard while it runs or handed to it: the states by level.

Level 0 is what the first block gets, level i what block i - 1 gives, before any norm above the blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from smidgen.anatomy import Anatomy

Handed = Mapping[int, Tensor]  # states (B, L, H) by level


@contextmanager
def hearing(parts: Anatomy, levels: Collection[int]) -> Iterator[dict[int, Tensor]]:
    """Filled by each forward inside the `with`; the hooks go with it."""
    heard: dict[int, Tensor] = {}
    handles = listeners(parts, levels, heard)
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def listeners(parts: Anatomy, levels: Collection[int], heard: dict[int, Tensor]) -> list[RemovableHandle]:
    """Hooks that put these levels into `heard` at each forward."""

    def got(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        heard[0] = args[0] if args else kwargs["hidden_states"]

    def gave(level: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            heard[level] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [parts.blocks[level - 1].module.register_forward_hook(gave(level)) for level in levels if level]
    if 0 in levels:
        handles.append(parts.blocks[0].module.register_forward_pre_hook(got, with_kwargs=True))
    return handles


@contextmanager
def starting(parts: Anatomy, states: Handed) -> Iterator[None]:
    """A forward inside the `with` runs nothing below the highest of these levels; without any it is as ever.

    Masks, positions and relative biases are made by the body all the same.
    """
    if not states:
        yield
        return
    first, *between = below(parts)
    forwards = {first: _giving(states[min(states)], False)} | {module: passing(False) for module in between}
    for i, block in enumerate(parts.blocks[: max(states)]):
        given = states.get(i + 1)
        forwards[block.module] = passing(block.in_tuple) if given is None else _giving(given, block.in_tuple)
    with instead(forwards):
        yield


def below(parts: Anatomy) -> list[nn.Module]:
    """What makes the input of the first block, in order."""
    return [module for module in (parts.embeddings, parts.project) if module is not None]


@contextmanager
def instead(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """These modules run these functions; afterwards what they ran before."""
    before = {module: vars(module).get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            module.forward = forward
        yield
    finally:
        for module, own in before.items():
            vars(module).pop("forward", None)
            if own is not None:
                module.forward = own


def _giving(states: Tensor, in_tuple: bool) -> Callable[..., Any]:
    return lambda *args, **kwargs: (states,) if in_tuple else states


def passing(in_tuple: bool) -> Callable[..., Any]:
    """A block that gives what it got."""
    return lambda hidden_states, *args, **kwargs: (hidden_states,) if in_tuple else hidden_states
