"""Gates: factors on the heads, inner units, sublayers and hidden dimensions of a model, without touching its code.

    with Gates(model) as gates:
        gates.heads[0] = torch.tensor([1.0, 0.0, 1.0, 1.0])     the second head of block 0 says nothing
        wanted = gates.fill("units", len(ids))                  ones that want a gradient, a row an example
        loss_sum = ...model(ids, mask)...
        per_example = torch.autograd.grad(loss_sum, wanted, materialize_grads=True)     (B, width) of each block

A gate multiplies what the sublayer's last Linear reads, so a gate of 0 gives what the Edits KeepHeads and KeepWidth
give: the part is gone, the bias of that Linear stays. None is no gate. A gate is read in each forward, so another may
be put in its place before the next one.

    name            shape                      is
    heads[i]        (heads,) or (B, heads)     of the heads of block i
    units[i]        (width,) or (B, width)     of the inner units of its feed-forward
    attention[i]    () or (B,)                 of all heads of block i together
    feed_forward[i] () or (B,)                 of all its inner units together
    hidden          (hidden size,)             of the states between sublayers, one gate for the whole model

The one on the hidden size is there with `Gates(model, hidden=True)`. It multiplies what is written into the residual
stream and what its norms give, and these take mean and variance over the dimensions whose gate is not 0, as they do
once KeepHidden has cut the others away (CoFi, Xia, Zhong, Chen 2022, arXiv:2204.00408).

With a row an example, one backward pass from the SUM of the examples' losses gives each example's own gradient: no
example reads another's gate. What is padded is no part of the loss, hence of no gradient. Where a block has no heads or
no units left nothing is multiplied; `materialize_grads` then gives zeros.

Why hooks: transformers 5 has neither head masks nor `prune_heads`. These stand before `out` and `down` of the anatomy,
so they work for every family in it, under SDPA and eager attention; those of the hidden size along `smidgen.stream`.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from smidgen.anatomy import Block, anatomy
from smidgen.errors import InputError
from smidgen.stream import stream

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KINDS = ("heads", "units", "attention", "feed_forward")
_OUT, _DOWN = ("heads", "attention"), ("units", "feed_forward")  # what is multiplied before these two Linears


class Gates:
    """See the module's text. Make new ones after an Edit: it may change the Linears that they stand before.

    Raises ModelError for a family that is unknown, or whose hidden size cannot be cut where `hidden` is asked for.
    """

    def __init__(self, model: PreTrainedModel, hidden: bool = False) -> None:
        self.model, self.blocks = model, anatomy(model).blocks
        self.heads: list[Tensor | None] = [None] * len(self.blocks)
        self.units: list[Tensor | None] = [None] * len(self.blocks)
        self.attention: list[Tensor | None] = [None] * len(self.blocks)
        self.feed_forward: list[Tensor | None] = [None] * len(self.blocks)
        self.hidden: Tensor | None = None
        self._stream = stream(model) if hidden else None
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> Gates:
        return self.attach()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.remove()

    def attach(self) -> Gates:
        """Put the hooks in, where a `with` does not fit; `remove` takes them out."""
        assert not self._handles, "attached already"
        for index, block in enumerate(self.blocks):
            for linear, count, kinds in ((block.out, block.heads, _OUT), (block.down, block.width, _DOWN)):
                if count:
                    self._handles.append(linear.register_forward_pre_hook(self._hook(index, kinds)))
        if self._stream is not None:
            self._handles += [writer.register_forward_hook(self._written) for writer in self._stream.writers]
            self._handles += [norm.register_forward_hook(self._normed) for norm in self._stream.norms]
        return self

    def remove(self) -> None:
        """Take every hook out."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def fill(self, kind: str, examples: int | None = None) -> list[Tensor]:
        """Put ones that want a gradient in every block and give them.

        Args:
            kind: one of KINDS.
            examples: how many the next forward has, for a row an example; None = one gate for all of them.
        """
        made = []
        for index, block in enumerate(self.blocks):
            shape = _shape(kind, block) if examples is None else (examples, *_shape(kind, block))
            made.append(torch.ones(shape, device=self.model.device, requires_grad=True))
            getattr(self, kind)[index] = made[-1]
        return made

    def _hook(self, index: int, kinds: tuple[str, str]) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        def multiply(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            values = args[0]
            for kind in kinds:
                gate = getattr(self, kind)[index]
                if gate is not None:
                    values = values * self._factors(gate, kind, index, len(values)).to(values.dtype)
            return (values, *args[1:])

        return multiply

    def _written(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        if self.hidden is None:
            return output
        if self.hidden.shape != output.shape[-1:]:
            raise InputError(f"gates.hidden has the shape {tuple(self.hidden.shape)}, wanted ({output.shape[-1]},).")
        return output * self.hidden.to(output.dtype)

    def _normed(self, norm: nn.LayerNorm, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """What the norm would give without the dimensions that are shut, and 0 there."""
        if self.hidden is None or self.hidden.all() or not self.hidden.any():
            return self._written(norm, args, output)
        left = self.hidden.detach().nonzero()[:, 0]
        weight, bias = (None if each is None else each[left] for each in (norm.weight, norm.bias))
        few = functional.layer_norm(args[0][..., left], left.shape, weight, bias, norm.eps)
        return torch.zeros_like(output).index_copy(-1, left, (few * self.hidden[left].to(few.dtype)).to(output.dtype))

    def _factors(self, gate: Tensor, kind: str, index: int, examples: int) -> Tensor:
        """A gate as factors of values (B, L, columns): (columns,) or (1,), or the same as (B, 1, ...)."""
        block = self.blocks[index]
        own = _shape(kind, block)
        if gate.shape not in (own, (examples, *own)):
            raise InputError(
                f"gates.{kind}[{index}] has the shape {tuple(gate.shape)}, wanted {own}, or {(examples, *own)} for a "
                f"row an example."
            )
        wide = gate.repeat_interleave(block.head_size, -1) if kind == "heads" else gate if own else gate.unsqueeze(-1)
        return wide if gate.shape == own else wide.unsqueeze(1)


def _shape(kind: str, block: Block) -> tuple[int, ...]:
    """Of a gate for all examples."""
    return {"heads": (block.heads,), "units": (block.width,)}.get(kind, ())
