"""What the blocks of a model get and give, heard while it runs: the states by level.

Level 0 is what the first block gets, level i what block i - 1 gives, before any norm above the blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from smidgen.anatomy import Anatomy


@contextmanager
def hearing(parts: Anatomy, levels: Collection[int]) -> Iterator[dict[int, Tensor]]:
    """Filled by each forward inside the `with`; the hooks go with it."""
    heard: dict[int, Tensor] = {}

    def got(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        heard[0] = args[0] if args else kwargs["hidden_states"]

    def gave(level: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            heard[level] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [parts.blocks[level - 1].module.register_forward_hook(gave(level)) for level in levels if level]
    if 0 in levels:
        handles.append(parts.blocks[0].module.register_forward_pre_hook(got, with_kwargs=True))
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()
