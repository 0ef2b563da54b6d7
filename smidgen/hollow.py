"""What stands where a sublayer has no heads, or no inner units, left: nothing is computed, its output's bias stays.

The modules that were there take these classes, so that what they know and what hangs below them keeps its name.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Nothing(nn.Module):
    """Was a Linear whose outputs have all gone. It is never called."""

    in_features: int
    out_features: int


class Constant(nn.Module):
    """Was a Linear whose inputs have all gone: (..., anything) -> (..., out_features), its bias, or 0 without one."""

    in_features: int
    out_features: int
    bias: nn.Parameter | None

    def forward(self, values: Tensor) -> Tensor:
        shape = (*values.shape[:-1], self.out_features)
        return values.new_zeros(shape) if self.bias is None else self.bias.expand(shape)


class NoHeads(nn.Module):
    """Was what attends. `then` names the output projection where that is inside."""

    then: str

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        return (getattr(self, self.then)(hidden_states) if self.then else hidden_states), None


class NoUnits(nn.Module):
    """Was the first half of a feed-forward, or all of it. `then` names the second half where that is inside."""

    then: str

    def forward(self, hidden_states: Tensor) -> Tensor:
        return getattr(self, self.then)(hidden_states) if self.then else hidden_states


def hollow(
    whole: nn.Module,
    kind: type[NoHeads] | type[NoUnits],
    before: set[nn.Linear],
    after: nn.Linear,
    norm: nn.Module | None,
) -> None:
    """Take the work out of `whole`, which runs the Linears `before` and, where that is inside, the one `after`.

    norm: one that `whole` alone reads, so that it goes too.
    """
    then = next((name for name, child in whole.named_children() if child is after), "")
    for module, hollow_kind in (*((linear, Nothing) for linear in before), (norm, nn.Identity)):
        if module is not None:
            module._parameters.clear()
            module.__class__ = hollow_kind
    del after.weight
    after.__class__ = Constant  # type: ignore[assignment]
    whole.__class__ = kind
    whole.then = then  # type: ignore[assignment]
