"""What networks beside a frozen model share: they read its states and change the last one, and touch no block.

Level 0 is what the first block gets, level i what block i - 1 gives. Hooks stay on the body and on what runs the blocks
alone; those on blocks come and go with each forward, so that to whoever looks the blocks are as they were, and their
states can be kept. Nothing here cuts gradients off: there are none below, as long as the model is frozen.
"""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from smidgen.anatomy import Anatomy, anatomy
from smidgen.grafts._parts import Graft
from smidgen.hearing import listeners

FAR = 16  # tokens; distances beyond it are one


class Beside(Graft):
    """A kind says in `beside` what comes of the last state, and by `levels` which others it wants."""

    stacks: ClassVar[bool] = False  # whole networks: rows of one task go through them together

    @abc.abstractmethod
    def levels(self, blocks: int) -> tuple[int, ...]: ...

    @abc.abstractmethod
    def beside(self, last: Tensor, heard: dict[int, Tensor], seen: Tensor | None) -> Tensor:
        """The last state, after the norm if there is one, to what the head reads; all (B, L, hidden).

        seen: (B, 1, 1, L) bool, the real tokens; None where all are.
        """

    def attach(self, model: PreTrainedModel) -> None:
        parts = anatomy(model)
        self.hook(parts.body, before=self.start)
        self.hook(_runner(parts), after=self.finish)

    def start(self, body: Any, args: Any, kwargs: Any) -> None:
        self.let_go()
        parts = anatomy(body)
        mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        heard: dict[int, Tensor] = {}
        handles = listeners(parts, self.levels(len(parts.blocks)), heard)
        self.__dict__["call"] = handles, heard, None if mask is None else mask[:, None, None, :] > 0

    def finish(self, runner: Any, args: Any, output: Any) -> Any:
        """`output` is a tuple, or a dict of Hugging Face's, whose first entry is the last state."""
        _, heard, seen = self.__dict__["call"]
        self.let_go()
        state = self.beside(output[0], heard, seen)
        if isinstance(output, tuple):
            return (state, *output[1:])
        output["last_hidden_state"] = state
        return output

    def let_go(self) -> None:
        for handle in self.__dict__.pop("call", ([],))[0]:
            handle.remove()


class Narrow(nn.Module):
    """A Transformer block, norms first: x + attention(norm(x)), then x + feed-forward(norm(x)).

    To each score comes a number by head and distance, from 0: where a base's embeddings know no positions, such as
    ModernBERT's, the network beside it knows the order all the same (Raffel et al. 2020, arXiv:1910.10683).
    """

    def __init__(self, width: int, heads: int, like: Tensor) -> None:
        super().__init__()
        made: Any = {"device": like.device, "dtype": like.dtype}
        self.heads = heads
        self.attend_norm, self.feed_norm = nn.LayerNorm(width, **made), nn.LayerNorm(width, **made)
        self.project, self.out = nn.Linear(width, 3 * width, **made), nn.Linear(width, width, **made)
        self.up, self.down = nn.Linear(width, 4 * width, **made), nn.Linear(4 * width, width, **made)
        self.distance = nn.Parameter(torch.zeros(heads, 2 * FAR + 1, **made))

    def forward(self, values: Tensor, seen: Tensor | None) -> Tensor:
        """(B, L, width) and (B, 1, 1, L) to (B, L, width)."""
        values = values + self.out(self.attention(self.attend_norm(values), seen))
        return values + self.down(nn.functional.gelu(self.up(self.feed_norm(values))))

    def attention(self, values: Tensor, seen: Tensor | None) -> Tensor:
        parts = self.project(values).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)  # (B, heads, L, head size)
        place = torch.arange(values.shape[1], device=values.device)
        apart = (place[None, :] - place[:, None]).clamp(-FAR, FAR) + FAR
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5 + self.distance[:, apart].to(query.dtype)
        if seen is not None:
            scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
        return (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)


def _runner(parts: Anatomy) -> nn.Module:
    """The module whose child the list of blocks is: it gives the last state, and what pools reads that afterwards."""
    return next(m for m in parts.body.modules() if any(child is parts.block_list for child in m.children()))
