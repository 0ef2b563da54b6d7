"""Other ways past some blocks, taken at random while a model trains, never when it is judged.

In each step a coin is tossed for each block: with probability stay(t) the block runs, else what is in its way: other
blocks one after another, or nothing at all, and the block is left out. The coins follow from the seed and the number
of the step alone, so a step that is cut, several processes and a resumed run see the same ones.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from smidgen.anatomy import Block
from smidgen.errors import InputError
from smidgen.tape import parse

INSIDE = ("query", "key", "value", "scores", "probs")


class Detours(nn.Module):
    """The ways and where the stage stands: a method's state, kept in checkpoints. `attach` it, `detach` it at the end.

    ways   of block i: modules that take and give what the block does; none = the block is left out
    stay   the probability that a block itself runs, at the share t of the stage
    taps   of the student, filled while the stage begins; those inside a block are refused in the first step
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        ways: Sequence[Iterable[nn.Module]],
        stay: Callable[[float], float],
        seed: int,
        taps: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.blocks, self.stay, self.seed, self.taps = tuple(blocks), stay, seed, taps
        self.ways = nn.ModuleList(nn.ModuleList(way) for way in ways)
        self.stands: dict[str, Any] = {"step": 0, "t": 0.0}

    def get_extra_state(self) -> dict[str, Any]:
        return self.stands

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.stands = dict(state)

    def step(self, t: float) -> None:
        """One step of training is done, and this share of the stage."""
        self.stands = {"step": self.stands["step"] + 1, "t": t}

    def staying(self) -> tuple[bool, ...]:
        """Which blocks run themselves in this step."""
        return tosses(self.seed, self.stands["step"], len(self.blocks), self.stay(self.stands["t"]))

    def attach(self) -> None:
        for i, block in enumerate(self.blocks):
            block.module.forward = functools.partial(self._run, i, block.module.forward)

    def detach(self) -> None:
        for block in self.blocks:
            vars(block.module).pop("forward", None)

    def _run(self, i: int, own: Callable[..., Any], hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        block = self.blocks[i]
        if not block.module.training:
            return own(hidden_states, *args, **kwargs)
        self._refuse_inside()
        if self.staying()[i]:
            return own(hidden_states, *args, **kwargs)
        for module in cast(nn.ModuleList, self.ways[i]):
            given = module(hidden_states, *args, **kwargs)
            hidden_states = given[0] if isinstance(given, tuple) else given
        if i == len(self.blocks) - 1 and torch.is_grad_enabled() and not hidden_states.requires_grad:
            hidden_states.requires_grad_()  # nothing before it trains in this step; `backward` needs somewhere to end
        return (hidden_states,) if block.in_tuple else hidden_states

    def _refuse_inside(self) -> None:
        inside = sorted(tap for tap in self.taps if parse(tap).part in INSIDE)
        if inside:
            raise InputError(
                f"{inside[0]} is asked of a block that does not run in every step of this stage. Compare what blocks "
                "give, as distil.hidden and distil.logits do, or do the other thing in a stage of its own."
            )


def tosses(seed: int, step: int, count: int, stay: float) -> tuple[bool, ...]:
    """`count` coins of a step, each True with probability `stay`."""
    return tuple(bool(coin < stay) for coin in np.random.default_rng([seed, step]).random(count))
