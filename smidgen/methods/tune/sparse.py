"""Tune a few of the weights of the blocks' matrices, as many as a budget says, and the head.

Idea       W' = W + D, with D zero but at the `budget` * |body| weights that matter most, of all matrices of the blocks
           together: so the blocks that a task needs get more of them (L0-close: Radiya-Dixit and Wang 2020,
           arXiv:2004.14129). `change`: all these matrices train for the first `explore` of the stage; what moved the
           furthest, by |W - W0|, is chosen, W goes back to W0, and D trains from 0 (LT-SFT: Ansell et al. 2022,
           arXiv:2110.07560). `fisher`: the largest sums over examples of (dL/dW)^2, before the first step (FISH:
           Sung et al. 2021, arXiv:2111.09839). Of equal weights the earlier are chosen. `matrices`: only in so many,
           those whose weights matter the most on average: the critical layers of Radiya-Dixit and Wang.
Takes      A float model of a family with an anatomy, and another method with a loss in the same stage: tune.full for
           labels, or any distil.*. `fisher`: labelled rows, or a teacher's decisions of unlabelled ones.
Leaves     The same model with other weights; and a delta: places and shifts, 8 bytes each, and the head. With `change`
           the weights kept are the best on dev from `explore` on.
Beside     tune.full, distil.*, tune.freeze, of whose blocks nothing is chosen.
Fails      Where a schedule falls, little of the learning rate is left after a long search. Wants more than full tuning
           does, such as 1e-4 to 1e-3. While `change` searches, the memory is that of full tuning, and once more the
           weights. The head keeps what it learnt in the search. Tasks cannot share a batch with it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from torch import Tensor, nn

from smidgen import grafting
from smidgen.batch import Batch, agreed
from smidgen.errors import InputError, NoEffect
from smidgen.grafts import build
from smidgen.method import Context, Method, Needs, Part, at_least, one_of
from smidgen.sparsity import top

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Search(nn.Module):
    """A graft whose places are still to be chosen, and the weights as they were. It has been when its shift trains.

    At the start the shift is 0 and stays so, and the matrices train that are not frozen: the `weights`.
    """

    def __init__(self, graft: Any, model: PreTrainedModel, frozen: Collection[nn.Parameter], keep: bool) -> None:
        super().__init__()
        self.graft = graft
        self.all: tuple[nn.Parameter, ...] = tuple(linear.weight for linear, _ in graft.places(model).values())
        self.weights = tuple(weight for weight in self.all if weight not in frozen)
        self.open(True)
        for i, weight in enumerate(self.weights if keep else ()):
            self.register_buffer(f"start_{i}", weight.detach().clone(), persistent=False)

    def open(self, weights: bool) -> None:
        for weight in self.weights:
            weight.requires_grad = weights
        self.graft.shift.requires_grad = not weights

    @property
    def chosen(self) -> bool:
        return bool(self.graft.shift.requires_grad)

    def choose(self, worth: Sequence[Tensor], matrices: int) -> None:
        """Take the places of the highest worth, of each weight, in so many matrices, and let these alone train."""
        critical = top(torch.stack([each.mean() for each in worth]), matrices)
        some = zip(self.weights, worth, critical, strict=True)
        found = {weight: each for weight, each, chosen in some if chosen}
        whole = [found.get(weight, torch.full_like(weight, -math.inf)) for weight in self.all]
        flags = top(torch.cat([each.flatten() for each in whole]), len(self.graft.at))
        self.graft.at.copy_(agreed(flags.nonzero().flatten().to(torch.int32)))
        self.open(False)

    @torch.no_grad()
    def rewind(self) -> list[Tensor]:
        """Take the weights back to where they were. Gives how far each had moved."""
        moved = []
        for i, weight in enumerate(self.weights):
            start = self.get_buffer(f"start_{i}")
            moved.append((weight - start).abs())
            weight.copy_(start)
        return moved


@final
@dataclass(frozen=True)
class Sparse(Method[Search]):
    budget: float = 0.005  # how many weights may move: a share of all of the body's
    blocks: int | str = "all"  # whose matrices: the last so many, or all
    matrices: int | str = "all"  # which of those may hold them: the so many most critical ones, or all
    rule: str = "change"  # which weights: change = those that move the most | fisher = of the largest gradients
    explore: float = 0.3  # of change: the share of the stage in which all may move
    rows: int = 256  # of fisher: examples to measure on; all there are where the data has fewer

    needs: ClassVar[Needs] = Needs(training=True, examples=True)
    picks: ClassVar[bool] = True

    def faults(self) -> Iterator[str]:
        if not 0 < self.budget <= 1:
            yield f"budget: got {self.budget}, wanted a share above 0 and up to 1."
        for name, value in (("blocks", self.blocks), ("matrices", self.matrices)):
            if value != "all" and (isinstance(value, str) or value < 1):
                yield f"{name}: got {value!r}, wanted a number from 1, or all."
        yield from one_of("rule", self.rule, ("change", "fisher"))
        if not 0 < self.explore < 1:
            yield f"explore: got {self.explore}, wanted a share above 0 and below 1."
        yield from at_least("rows", self.rows, 1)

    def settled(self, t: float) -> bool:
        return self.rule == "fisher" or t >= self.explore

    def frozen(self, blocks: int) -> tuple[int, ...]:
        """Blocks below the lowest matrix that changes give the same in every step."""
        return (blocks - self.blocks,) if isinstance(self.blocks, int) and 0 < self.blocks < blocks else ()

    def begin(self, ctx: Context) -> Search:
        assert ctx.model is not None
        grafting.freeze(ctx)
        first, count = grafting.first_of(ctx.model, self.blocks, "tune.sparse"), self._count(ctx)
        graft: Any = build(ctx.model, "sparse", {"first": first, "count": count})
        state = Search(graft, ctx.model, ctx.frozen, keep=self.rule == "change")
        self._fits(state.weights, count)
        if self.rule == "fisher":
            modules = [module for module, _ in graft.places(ctx.model).values() if module.weight not in ctx.frozen]
            state.choose(fisher(ctx.model, modules, ctx.sight.sample(self.rows)), self._many(state.weights))
        graft.attach(ctx.model)
        return state

    def step(self, state: Search, t: float) -> None:
        if not state.chosen and t >= self.explore:
            moved = state.rewind()
            if not any(bool(each.any()) for each in moved):
                raise InputError(
                    "tune.sparse: no weight has moved, since another method of the stage froze them. Give each a stage."
                )
            state.choose(moved, self._many(state.weights))

    def end(self, state: Search, ctx: Context) -> None:
        grafting.end(state.graft, ctx)

    def adds(self, state: Search, ctx: Context) -> Iterable[Part]:
        yield grafting.part(state.graft)

    def found(self, state: Search, ctx: Context, folder: Path) -> Mapping[str, Any]:
        at, start = state.graft.at.long().cpu(), state.graft.start
        ends = torch.tensor([*start.values()][1:])
        counts = torch.bincount(torch.bucketize(at, ends, right=True), minlength=len(start)).tolist()
        blocks: dict[str, int] = {}
        for name, count in zip(start, counts, strict=True):
            block = name.partition("/")[0]
            blocks[block] = blocks.get(block, 0) + count
        most = max(blocks, key=lambda block: blocks[block])
        told = f"{len(at):,} weights have moved, most of them, {blocks[most]:,}, in block {most}."
        return {"weights": len(at), "by_matrix": dict(zip(start, counts, strict=True)), "told": told}

    def _many(self, weights: Sequence[Tensor]) -> int:
        return len(weights) if self.matrices == "all" else int(self.matrices)

    def _fits(self, weights: Sequence[Tensor], count: int) -> None:
        """Raise InputError where there are not so many matrices, or the chosen ones might be too small."""
        if not weights:
            raise InputError("tune.sparse: tune.freeze holds all matrices of these blocks. Freeze fewer blocks.")
        if (many := self._many(weights)) > len(weights):
            raise InputError(
                f"tune.sparse: matrices is {many}, but these blocks have {len(weights)}. Write matrices: all."
            )
        if count > (least := sum(sorted(weight.numel() for weight in weights)[:many])):
            share = math.floor(1e4 * self.budget * least / count) / 1e4
            raise InputError(
                f"tune.sparse: budget {self.budget} is {count:,} weights, but {many} of the matrices may have no more "
                f"than {least:,}. Write a budget up to {share}, or more matrices."
            )

    def _count(self, ctx: Context) -> int:
        assert ctx.model is not None
        body = sum(p.numel() for p in ctx.model.base_model.parameters())
        if not (count := round(self.budget * body)):
            raise NoEffect(f"tune.sparse: budget {self.budget} of {body:,} weights is none. Write more.")
        return count


def fisher(model: PreTrainedModel, modules: Sequence[nn.Module], batches: Iterable[Batch]) -> list[Tensor]:
    """Of each weight of these Linears the sum over rows of the square of the row's gradient.

    A row's gradient is the sum over its tokens of dL/dy x': so neither batch size nor padding changes it.
    """
    seen: list[tuple[int, Tensor, Tensor]] = []

    def look(i: int, module: nn.Module, args: Any, output: Tensor) -> None:
        seen.append((i, args[0].detach(), output))

    weights: list[Any] = [module.weight for module in modules]
    sums, rows = [torch.zeros_like(weight, requires_grad=False) for weight in weights], 0
    handles = [module.register_forward_hook(functools.partial(look, i)) for i, module in enumerate(modules)]
    try:
        for batch in batches:
            seen.clear()
            loss, rows = batch.losses(model).sum(), rows + len(batch)
            slopes = torch.autograd.grad(loss, [output for _, _, output in seen], materialize_grads=True)
            for (i, inputs, _), slope in zip(seen, slopes, strict=True):
                sums[i] = sums[i].to(slope.device)
                for given, wanted in zip(inputs, slope, strict=True):
                    sums[i] += (wanted.T @ given).square()
    finally:
        for handle in handles:
            handle.remove()
    if not rows:
        raise InputError(
            "tune.sparse: rule fisher got no rows to measure on. Give labelled rows, or take rule: change."
        )
    return [each.to(weight.device) for each, weight in zip(sums, weights, strict=True)]
