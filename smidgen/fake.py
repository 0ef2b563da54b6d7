"""A model that trains as if its weights and activations had 8 bits: rounded forward, as if not rounded backward.

What is rounded, and how, is that of `smidgen.integer`: weights of each Linear symmetric with a scale for each output
channel; what it multiplies, and a table of embeddings, in 256 levels of a range with 0 in it. A Linear that reads the
same tensor as the one before it reads the same rounded tensor.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from smidgen.batch import highest
from smidgen.calibration import STEPS, Range

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LEAST = 1e-8  # of a range, to divide by


class Fake(nn.Module):
    """Ranges of what each Linear of a model reads, by place, and the hooks that round.

    Ranges are seen in training, on real tokens; a step's least and largest numbers, over its micro-batches and
    processes, move them by `momentum`. With a `rate` they are parameters instead, once rounding has begun.
    """

    low: Tensor
    high: Tensor
    known: Tensor
    on: Tensor
    least: Tensor
    most: Tensor

    def __init__(
        self, model: PreTrainedModel, levels: int, embeddings: bool, momentum: float, rate: float | None
    ) -> None:
        super().__init__()
        self.linears = tuple((n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear))
        self.tables = tuple(m for m in model.modules() if isinstance(m, nn.Embedding)) if embeddings else ()
        self.model, self.levels, self.momentum, self.rate = (model,), levels, momentum, rate
        for name in ("low", "high"):
            values = torch.zeros(len(self.linears), dtype=torch.double)
            if rate is None:
                self.register_buffer(name, values)
            else:
                setattr(self, name, nn.Parameter(values))
        self.register_buffer("known", torch.zeros(len(self.linears), dtype=torch.bool))
        self.register_buffer("on", torch.zeros((), dtype=torch.bool))
        for name, end in (("least", torch.inf), ("most", -torch.inf)):  # of this step
            self.register_buffer(name, torch.full((len(self.linears),), end, dtype=torch.double), persistent=False)
        self.slots = list(range(len(self.linears)))  # whose range each Linear has
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def groups(self) -> list[dict[str, Any]]:
        own = list(self.parameters())
        return [{"params": own, "lr": self.rate, "weight_decay": 0.0}] if own else []

    @torch.no_grad()
    def step(self, on: bool) -> None:
        """One step of training is done; from here on what is known is rounded, or not yet."""
        least, most = -highest(-self.least), highest(self.most)
        seen = most >= least
        if self.rate is None or not self.on:
            for own, new in ((self.low, least), (self.high, most)):
                own.copy_(torch.where(seen, torch.where(self.known, own + self.momentum * (new - own), new), own))
        self.known |= seen
        self.on.fill_(on)
        self.least.fill_(torch.inf)
        self.most.fill_(-torch.inf)

    def ranges(self) -> dict[str, Range]:
        """Of what each Linear reads, by its name, with 0 in them."""
        low, high, known = (values.tolist() for values in (self.low, self.high, self.known))
        both = zip(self.linears, self.slots, strict=True)
        return {name: (min(low[i], 0.0), max(high[i], 0.0)) for (name, _), i in both if known[i]}

    # While the model runs.

    def attach(self) -> None:
        hold = self._handles.append
        hold(self.model[0].register_forward_pre_hook(self._begin, with_kwargs=True))
        for i, (_, linear) in enumerate(self.linears):
            hold(linear.register_forward_pre_hook(functools.partial(self._put, i)))
            hold(linear.register_forward_hook(_take, always_call=True))
        for table in self.tables:
            hold(table.register_forward_hook(self._rows))

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _begin(self, model: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        self.mask, self.rounding = kwargs.get("attention_mask"), bool(self.on)
        self.last: tuple[Any, int, Any] = (None, 0, None)

    def _put(self, i: int, linear: nn.Linear, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x = args[0]
        if x is not self.last[0]:
            if linear.training:
                self._see(i, x.detach())
            self.last = (x, i, rounded(x, self.low[i], self.high[i]) if self.rounding and self.known[i] else x)
        self.slots[i] = self.last[1]
        if self.rounding:
            vars(linear)["weight"] = rounded_weights(linear.weight, self.levels)
        return (self.last[2], *args[1:])

    def _see(self, i: int, x: Tensor) -> None:
        if self.mask is not None and x.dim() == 3 and x.shape[:2] == self.mask.shape:
            x = x[self.mask > 0]
        self.least[i] = torch.minimum(self.least[i], x.min())
        self.most[i] = torch.maximum(self.most[i], x.max())

    def _rows(self, table: nn.Embedding, args: Any, rows: Tensor) -> Tensor:
        return rounded(rows, *table.weight.detach().aminmax()) if self.rounding else rows


def _take(linear: nn.Module, args: Any, output: Any) -> None:
    vars(linear).pop("weight", None)


# What the graph will do. The gradient is that of what is not rounded; 0 where it is cut off (Jacob et al. 2018).


def rounded(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """In 256 levels from `low` to `high`, which have a gradient if they are parameters (LSQ, Esser et al. 2020)."""
    x = x.float() if x.dtype.itemsize == 2 else x
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = ((high - low) / STEPS).clamp(min=LEAST)
    zero = _nearest(-low / scale)
    if not scale.requires_grad:
        return torch.fake_quantize_per_tensor_affine(x, scale.float(), zero.int(), 0, STEPS)
    scale, zero = scale.to(x.dtype), zero.to(x.dtype)
    return ((_nearest(x / scale) + zero).clamp(0, STEPS) - zero) * scale


def rounded_weights(weights: Tensor, levels: int) -> Tensor:
    """(N, K), with a scale for each row, from -levels to levels."""
    scales = weights.detach().abs().amax(1) / levels
    scales = torch.where(scales == 0, 1, scales).float()
    zeros = torch.zeros_like(scales, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weights, scales, zeros, 0, -levels, levels)


def _nearest(x: Tensor) -> Tensor:
    return x + (x.round() - x).detach()
