"""Weights that are zeros: which of them, how many by when, and how many there are in what was saved.

Zeros are stored and multiplied like other weights. A file with nine zeros in ten is as long as one without, and no
graph here runs it faster.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from smidgen.anatomy import anatomy

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SCOPES = ("global", "matrix")
REMARK = (
    "For study: zeros are stored and multiplied like other weights, so by themselves they make nothing faster and no "
    "file smaller."
)


def cubic(t: float, start: float, until: float) -> float:
    """How far the schedule is at the share t of the stage: 1 - (1 - p)^3, p from 0 at `start` to 1 at `until`.

    With s_i = 0 it is s_t / s_f of Zhu and Gupta (2017, arXiv:1710.01878), equation 1.
    """
    p = min(max((t - start) / (until - start), 0.0), 1.0)
    return 1 - (1 - p) ** 3


def highest(values: Sequence[Tensor], share: float, scope: str) -> list[Tensor]:
    """Masks of the values' shapes, False at the lowest `share` of them: of all together, or within each tensor.

    Exact: round(share * n) of n are False. Of equal values the earlier ones stay.
    """
    if scope == "matrix":
        return [_highest(value.flatten(), share).view_as(value) for value in values]
    flat = _highest(torch.cat([value.flatten() for value in values]), share)
    parts = flat.split([value.numel() for value in values])
    return [part.view_as(value) for part, value in zip(parts, values, strict=True)]


def _highest(flat: Tensor, share: float) -> Tensor:
    return top(flat, len(flat) - round(share * len(flat)))


def top(flat: Tensor, count: int) -> Tensor:
    """A mask of the `count` highest of a row of values. Of equal values the earlier ones are in it."""
    if count == len(flat):
        return torch.ones_like(flat, dtype=torch.bool)
    border = flat.kthvalue(len(flat) - count).values
    above, equal = flat > border, flat == border
    return above | (equal & (equal.cumsum(0) <= count - above.sum()))


def masked(weight: Tensor, score: Tensor, mask: Tensor) -> Tensor:
    """W * M, with the gradient g * M for W and g * W for S, where g is that of the product: all of one shape."""
    return weight * (mask + (score - score.detach()))


def linears(model: PreTrainedModel) -> list[nn.Linear]:
    """Every Linear inside the blocks; embeddings, pooler and head are not theirs.

    Raises ModelError where the family is not known.
    """
    return [m for block in anatomy(model).blocks for m in block.module.modules() if isinstance(m, nn.Linear)]


class Masks(nn.Module):
    """The weights of some Linears with a mask each, False where it is zero: a method's state, kept in checkpoints."""

    risen: Tensor

    def __init__(self, targets: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.targets = tuple(targets)
        self.register_buffer("risen", torch.zeros((), dtype=torch.float64))  # `cubic` of the latest step
        for i, linear in enumerate(self.targets):
            self.register_buffer(f"mask_{i}", torch.ones_like(linear.weight, dtype=torch.bool))

    @property
    def weights(self) -> list[nn.Parameter]:
        return [linear._parameters["weight"] for linear in self.targets]  # type: ignore[misc]

    @property
    def masks(self) -> list[Tensor]:
        return [self.get_buffer(f"mask_{i}") for i in range(len(self.targets))]

    def put(self, masks: Sequence[Tensor]) -> None:
        """Take these masks from now on."""
        for own, new in zip(self.masks, masks, strict=True):
            own.copy_(new)

    @torch.no_grad()
    def close(self) -> None:
        """Write the zeros into the weights."""
        for weight, mask in zip(self.weights, self.masks, strict=True):
            weight.mul_(mask.to(weight.device))


@dataclass(frozen=True)
class Zeros:
    """How many of so many weights are zeros."""

    zeros: int
    weights: int

    def to_data(self) -> dict[str, Any]:
        """As a method's `found`: numbers for the record, and `told`, the sentence for people."""
        share = self.zeros / self.weights
        told = (
            f"{100 * share:.1f} % of the {self.weights:,} weights of the blocks' matrices are zero in the saved file."
        )
        return {"zeros": self.zeros, "weights": self.weights, "share": share, "told": told}


def zeros(model: PreTrainedModel, folder: Path) -> Zeros:
    """Count the zeros in the saved weights of a model's blocks."""
    from safetensors import safe_open

    own = {id(linear.weight) for linear in linears(model)}
    names = [name for name, parameter in model.named_parameters() if id(parameter) in own]
    with safe_open(str(folder / "model.safetensors"), "pt") as file:
        counts = [(int((tensor == 0).sum()), tensor.numel()) for tensor in map(file.get_tensor, names)]
    return Zeros(sum(zero for zero, _ in counts), sum(total for _, total in counts))


def share_faults(share: float) -> Iterator[str]:
    """Faults of the share of weights that are to be zero."""
    if not 0 <= share < 1:
        yield f"share: got {share}, wanted a share from 0 and below 1, at which no weight would be left."


def schedule_faults(start: float, until: float) -> Iterator[str]:
    """Faults of a schedule's two ends, for `faults` of a method."""
    if not 0 <= start < 1:
        yield f"start: got {start}, wanted a share of the stage from 0 and below 1."
    if not 0 < until <= 1 or (0 <= start < 1 and not start < until):
        yield f"until: got {until}, wanted a share of the stage above start and up to 1."
