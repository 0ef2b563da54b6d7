"""Factors on what a cut leaves, or weights, by least squares: each sublayer says again what the uncut one said.

With x what a sublayer is added to and a what its last Linear W reads, both in the model that is cut, and x', a' in the
uncut one, the factors m of a sublayer's heads, or units, are

    argmin  sum over tokens |x + W (m * a) - x' - W a'|^2 + damping |m - 1|^2

over what is kept, 0 elsewhere; so a sublayer also mends what those before it got wrong. Sublayer by sublayer from the
bottom, since each reads what those before it have become (Kwon et al. 2022, arXiv:2204.09656). The sum is quadratic in
m: A = (a^T a) * (W^T W), product by product, summed over the columns of a head, and never a system with a row a token.

Weights have more to give: W and its bias are both free, and all outputs share one matrix, a^T a (the tuning of K-prune,
Park, Choi and Kang 2024, arXiv:2308.03449).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from smidgen.anatomy import Block, anatomy
from smidgen.batch import Batch, agreed
from smidgen.gates import Gates
from smidgen.hearing import starting

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LARGEST = 10.0  # a factor beyond it says that the rows do not tell the parts of a sublayer apart
DAMPING = 1e-2  # of the mean of A's diagonal
FREE = 0.1  # the same for weights: there are many more of them


def refit(
    model: PreTrainedModel, rows: Sequence[Batch], heads: list[np.ndarray], units: list[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray], int]:
    """Factors of all heads and units, float64 a block, 0 where nothing is kept; and how many sublayers were fitted.

    Args:
        rows: what to fit on.
        heads, units: bool a block, what is kept.

    Ends at the first sublayer with a factor beyond LARGEST; it and those after it keep factors of 1.
    """
    found = [each.astype(np.float64) for each in heads], [each.astype(np.float64) for each in units]
    fitted, whole, cut = 0, Reads(model, rows), Reads(model, rows)
    with Gates(model) as gates, torch.no_grad():
        for index, block in enumerate(gates.blocks):
            for kind, factors in zip(("heads", "units"), found, strict=True):
                if not factors[index].any():
                    continue
                kept = np.flatnonzero(factors[index])
                solved = solve(*equations(whole, cut, block, kind, kept, gates, found))
                if not (abs(solved) <= LARGEST).all():
                    return *found, fitted
                factors[index][kept] = solved
                fitted += 1
    return *found, fitted


def equations(
    whole: Reads,
    cut: Reads,
    block: Block,
    kind: str,
    kept: np.ndarray,
    gates: Gates,
    factors: tuple[list[np.ndarray], list[np.ndarray]],
) -> tuple[Tensor, Tensor]:
    """A (n, n) and b (n,), float64: the sum is m A m - 2 b m and a constant, m the factors of the n parts kept."""
    linear, size = (block.out, block.head_size) if kind == "heads" else (block.down, 1)
    weight = linear.weight.detach()
    columns = torch.from_numpy((kept[:, None] * size + np.arange(size)).ravel()).to(weight.device)
    inside = weight[:, columns]
    products = torch.zeros(len(columns), len(columns), dtype=torch.float64, device=weight.device)
    against = torch.zeros(len(columns), dtype=torch.float64, device=weight.device)
    for i in range(len(cut.rows)):
        gates.heads[:], gates.units[:] = ([None] * len(gates.blocks) for _ in range(2))
        read, beside = whole.of(i, block, kind)
        wanted = read @ weight.T + beside
        gates.heads[:], gates.units[:] = ([torch.from_numpy(each).to(weight) for each in both] for both in factors)
        getattr(gates, kind)[block.index] = None
        read, beside = cut.of(i, block, kind)
        read = read[:, columns]
        products += (read.T @ read).double()
        against += (read * ((wanted - beside) @ inside)).sum(0).double()
    products *= (inside.T @ inside).double()
    count = len(kept)
    return products.view(count, size, count, size).sum((1, 3)), against.view(count, size).sum(1)


def solve(products: Tensor, against: Tensor) -> np.ndarray:
    """The factors that are best, damped towards 1; (n,) float64."""
    ones = torch.ones_like(against)
    damped = products + torch.eye(len(ones)).to(products) * (DAMPING * products.diagonal().mean()).clamp(min=1e-30)
    moved: np.ndarray = (ones + torch.linalg.solve(damped, against - products @ ones)).cpu().numpy()
    return moved


@torch.no_grad()
def reweigh(model: PreTrainedModel, uncut: PreTrainedModel, rows: Sequence[Batch]) -> int:
    """Fit the last Linear of each sublayer of a cut model anew, in place, its bias too; how many were fitted.

    Args:
        uncut: the model before the cut, which stays as it is.
        rows: what to fit on.
    """
    fitted, whole, cut = 0, Reads(uncut, rows), Reads(model, rows)
    for block, before in zip(anatomy(model).blocks, anatomy(uncut).blocks, strict=True):
        for kind, left in (("heads", block.heads), ("units", block.width)):
            if left:
                _reweigh(cut, block, whole, before, kind)
                fitted += 1
    return fitted


def _reweigh(cut: Reads, block: Block, uncut: Reads, before: Block, kind: str) -> None:
    """sum over tokens |x + W a + c - x' - W' a' - c'|^2 + damping |W - W_now|^2, at its least."""
    linear, whole = (block.out, before.out) if kind == "heads" else (block.down, before.down)
    has_bias, columns = linear.bias is not None, linear.in_features
    size = columns + has_bias
    products = torch.zeros(size, size, dtype=torch.float64, device=linear.weight.device)
    against = torch.zeros(size, linear.out_features, dtype=torch.float64, device=linear.weight.device)
    for i in range(len(cut.rows)):
        read, beside = uncut.of(i, before, kind)
        wanted = whole(read) + beside
        read, beside = cut.of(i, block, kind)
        off = wanted - linear(read) - beside
        if has_bias:
            read = torch.cat([read, read.new_ones(len(read), 1)], 1)
        products += (read.T @ read).double()
        against += (read.T @ off).double()
    damping = (FREE * products.diagonal().mean()).clamp(min=1e-30)
    found = agreed(torch.linalg.solve(products + torch.eye(size).to(products) * damping, against))
    linear.weight.add_(found[:columns].T.to(linear.weight))
    if has_bias:
        linear.bias.add_(found[columns].to(linear.bias))


class _Enough(Exception):
    """What a forward is for has been seen."""


class Reads:
    """What the sublayers of a model read of some rows, from the bottom up: each forward starts where the last one did,
    so that all of them together cost a few forwards, and not one a sublayer. What is below may not change on the way.
    """

    def __init__(self, model: PreTrainedModel, rows: Sequence[Batch]) -> None:
        self.model, self.rows, self._parts = model, rows, anatomy(model)
        self._from: list[dict[int, Tensor]] = [{} for _ in rows]  # the input of the block that was read last

    def of(self, index: int, block: Block, kind: str) -> tuple[Tensor, Tensor]:
        """Of the real tokens of a batch, what the sublayer's last Linear reads, (T, columns), and what is added to what
        it says, (T, hidden): the block's input, or, of a feed-forward, what the attention made of it.
        """
        seen: dict[str, Tensor] = {}

        def input_of(name: str) -> Callable[..., None]:
            def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                seen[name] = args[0] if args else kwargs["hidden_states"]
                if name == "read":
                    raise _Enough

            return note

        def output(module: nn.Module, args: tuple[Any, ...], said: Tensor) -> None:
            seen["attended"] = said

        last = block.out if kind == "heads" else block.down
        handles = [
            block.module.register_forward_pre_hook(input_of("input"), with_kwargs=True),
            block.up.register_forward_pre_hook(input_of("up"), with_kwargs=True),
            block.out.register_forward_hook(output),
            last.register_forward_pre_hook(input_of("read"), with_kwargs=True),
        ]
        inputs = self.rows[index].inputs
        try:
            with starting(self._parts, self._from[index]):
                self.model(**inputs)
        except _Enough:
            pass
        finally:
            for handle in handles:
                handle.remove()
        self._from[index] = {block.index: seen["input"]}
        beside = seen["input"]
        if kind == "units":
            beside = beside + seen["attended"] if block.feed_norm is not None else seen["up"]
        real = inputs["attention_mask"].bool()
        return seen["read"][real], beside[real]
