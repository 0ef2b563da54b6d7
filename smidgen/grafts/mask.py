"""Zeros in the matrices of blocks, W * M with M of 0 and 1, a bit a weight (Zhao et al. 2020, arXiv:2004.12406)."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import PreTrainedModel

from smidgen.grafts._weights import Reweighted, matrices, packed, unpacked


class Mask(Reweighted):
    """`zeros`: packed bits by block and place, such as `3/query`; 1 where a weight is zero. From block `first` on.

    Bits do not train: what does is behind them, in tune.mask.
    """

    defaults = {"first": 0}

    def grow(self, model: PreTrainedModel) -> None:
        self.zeros = nn.Module()
        for name, linear in matrices(model, self.settings["first"], "masks").items():
            self.zeros.register_buffer(name, packed(linear.weight.new_zeros(linear.weight.shape)))

    def places(self, model: PreTrainedModel) -> dict[str, tuple[nn.Module, str]]:
        return {name: (linear, "weight") for name, linear in matrices(model, self.settings["first"], "masks").items()}

    def shut(self, name: str, zeros: Tensor) -> None:
        """Take these flags for a matrix, True where a weight is zero."""
        self.zeros.get_buffer(name).copy_(packed(zeros))

    def other(self, name: str, own: Tensor, training: bool = False) -> Tensor:
        return own.masked_fill(unpacked(self.zeros.get_buffer(name), own.shape), 0)
