"""Replace groups of blocks by one block each, while the rest of the model runs around them.

Idea       The model is cut in n groups of blocks, each with a successor of one block. In each step and for each group
           r ~ Bernoulli(p): y = r successor(x) + (1 - r) group(x). Only successors train, on the stage's own losses;
           blocks replaced, embeddings and head stay as they are. p rises, p = min(1, rate + (1 - rate) t / rising), or
           stays, and in the end the successors are the model (BERT-of-Theseus, Xu et al. 2020, arXiv:2002.02925).
           Beyond the paper a successor may be of another kind, one a block with groups: 1.0: its attention `local`,
           `lsh` or `multi_query` (see smidgen/attention), or `narrow`, with the inner units whose weights are largest.
Takes      A float model that is fine-tuned, of a family with an anatomy, and another method with a loss in the stage.
Leaves     A model with one block a group that plain Hugging Face classes load; of another kind, one that they load
           after `import smidgen`. Dev is scored on successors alone.
Beside     tune.full, as in the paper; distil.logits and distil.hidden too. Fine-tune all of it in the stage after it.
Fails      A successor trains in a share p of the steps: with a low, constant rate it hardly moves. What looks inside a
           block is refused beside it, and so are groups of ModernBERT that mix local and global blocks.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from torch import nn

from smidgen.anatomy import Anatomy, Block, anatomy
from smidgen.attention import kind, kinds
from smidgen.detours import Detours
from smidgen.edits.keep_blocks import KeepBlocks
from smidgen.edits.keep_width import KeepWidth
from smidgen.edits.swap import Swap
from smidgen.errors import InputError, ModelError, NoEffect
from smidgen.method import Context, Method, Needs, at_least, one_of, share
from smidgen.source import resolve
from smidgen.surgery import RULES, choose, rounded

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GROUP = "group"  # each successor starts from the first block of its own group
KINDS = ("same", *kinds(), "narrow")


@final
@dataclass(frozen=True)
class Theseus(Method[Detours]):
    groups: int | float | tuple[int, ...] = 0.5  # how many, or what share of the blocks, or the size of each
    start: str = "first"  # where successors start: first | uniform | skip | ends | last | group, each in its own
    rate: float = 0.5  # probability that a successor runs, when the stage begins
    rising: float = 0.5  # share of the stage in which it rises to 1; 0 = it stays as it is
    successor: str = "same"  # same | local | lsh | multi_query | narrow
    window: int = 64  # local: how many tokens away a token sees
    buckets: int = 16  # lsh: how many, 1 or even; a text of L tokens wants about 2 L / chunk
    rounds: int = 2  # lsh: times that tokens are put in buckets
    chunk: int = 64  # lsh: tokens that meet each other and as many before them
    width: float = 0.5  # narrow: share of the inner units that stay
    multiple: int = 1  # narrow: widths are multiples of it

    needs: ClassVar[Needs] = Needs(training=True)

    def reshapes(self) -> bool:
        return True

    def faults(self) -> Iterator[str]:
        if isinstance(self.groups, int):
            if self.groups < 1:
                yield f"groups: got {self.groups}, wanted at least 1."
        elif isinstance(self.groups, float):
            if not 0 < self.groups <= 1:
                yield f"groups: got {self.groups}, wanted a share of the blocks above 0 and up to 1, or a whole number."
        elif not self.groups or min(self.groups) < 1:
            yield f"groups: got {list(self.groups)}, wanted the number of blocks in each group, such as [1, 2, 3]."
        yield from one_of("start", self.start, (*RULES, GROUP))
        yield from share("rate", self.rate)
        yield from share("rising", self.rising)
        yield from one_of("successor", self.successor, KINDS)
        for name in ("window", "buckets", "rounds", "chunk", "multiple"):
            yield from at_least(name, getattr(self, name), 1)
        if self.buckets > 1 and self.buckets % 2:
            yield f"buckets: got {self.buckets}, wanted 1 or an even number: they come in opposites."
        if not 0 < self.width < 1:
            yield f"width: got {self.width}, wanted a share between 0 and 1."
        if self.rate == self.rising == 0:
            yield "rate: got 0.0, wanted more, or rising above 0: no successor would ever train."

    def begin(self, ctx: Context) -> Detours:
        assert ctx.model is not None
        if resolve(str(ctx.source)).head != ctx.task.name:
            raise InputError(
                f"replace.theseus: the model has no trained head for {ctx.task.name}, and none trains here. "
                "Fine-tune it in a stage before this one: methods: {tune.full: {}}."
            )
        parts = anatomy(ctx.model)
        sizes = grouped(len(parts.blocks), self.groups)
        if len(sizes) == len(parts.blocks) and self.successor == "same":
            raise NoEffect(
                f"replace.theseus: groups {self.groups} puts a block in the place of each of {len(sizes)} blocks. "
                "Write fewer groups, or another successor."
            )
        own = tuple(at.start for at in _slices(sizes))
        kept = own if self.start == GROUP else choose(len(parts.blocks), len(sizes), self.start)
        _refuse_mixed(parts, sizes, kept)
        predecessor = _copied(ctx.model, parts).train()
        if len(kept) < len(parts.blocks):
            ctx.edit(KeepBlocks(kept))
        self._change(ctx, len(kept))
        for parameter in (*ctx.model.parameters(), *predecessor.parameters()):
            parameter.requires_grad = False
        for parameter in (successors := anatomy(ctx.model)).block_list.parameters():
            parameter.requires_grad = True
        ways = [predecessor[at] for at in _slices(sizes)]
        state = Detours(successors.blocks, ways, self.probability, ctx.seed, ctx.student_taps)
        state.attach()
        return state

    def _change(self, ctx: Context, count: int) -> None:
        """Make successors of the kind that is asked."""
        assert ctx.model is not None
        if self.successor in kinds():
            numbers = tuple(getattr(self, name) for name in kind(self.successor).SETTINGS)
            ctx.edit(Swap(tuple(range(count)), self.successor, numbers))
        for block in (b for b in anatomy(ctx.model).blocks if self.successor == "narrow" and b.width):
            units = rounded(self.width * block.width, self.multiple, block.width)
            if units < block.width:
                ctx.edit(KeepWidth(block.index, largest(block, units)))

    def probability(self, t: float) -> float:
        return replacing(t, self.rate, self.rising)

    def step(self, state: Detours, t: float) -> None:
        state.step(t)

    def end(self, state: Detours, ctx: Context) -> None:
        assert ctx.model is not None
        state.detach()
        for parameter in ctx.model.parameters():
            parameter.requires_grad = True


def replacing(t: float, rate: float, rising: float) -> float:
    """The probability that a successor runs at the share t of the stage."""
    return min(1.0, rate + (1 - rate) * t / rising) if rising else rate


def grouped(blocks: int, groups: int | float | tuple[int, ...]) -> tuple[int, ...]:
    """How many blocks each group has, from the first to the last; even groups differ by one at most.

    Raises:
        InputError: more groups than blocks, or sizes that do not add up.
    """
    if isinstance(groups, tuple):
        if sum(groups) != blocks:
            raise InputError(
                f"replace.theseus: groups {list(groups)} are {sum(groups)} blocks, but this model has {blocks}."
                " Write sizes that add up to it, or a number of groups."
            )
        return groups
    count = max(1, round(groups * blocks)) if isinstance(groups, float) else groups
    if count > blocks:
        raise InputError(f"replace.theseus: groups is {groups}, but this model has {blocks} blocks: use 1 to {blocks}.")
    return tuple((i + 1) * blocks // count - i * blocks // count for i in range(count))


def largest(block: Block, keep: int) -> tuple[int, ...]:
    """The inner units of a block with the largest |weights in| * |weights out|."""
    weight = block.up.weight.detach()
    into = weight.unflatten(0, (-1, block.width)).square().sum((0, 2)) if block.gated else weight.square().sum(1)
    score = into * block.down.weight.detach().square().sum(0)
    return tuple(sorted(score.topk(keep).indices.tolist()))


def _slices(sizes: tuple[int, ...]) -> list[slice]:
    return [slice(sum(sizes[:i]), sum(sizes[: i + 1])) for i in range(len(sizes))]


def _copied(model: PreTrainedModel, parts: Anatomy) -> nn.ModuleList:
    """The blocks once more, with weights of their own and the model's config, which says how attention is run."""
    configs = (model.config, parts.body.config)
    return copy.deepcopy(parts.block_list, {id(config): config for config in configs})


def _refuse_mixed(parts: Anatomy, sizes: tuple[int, ...], kept: tuple[int, ...]) -> None:
    """A block is given the mask of its own kind, so a group must be of its successor's kind."""
    for at, successor in zip(_slices(sizes), kept, strict=True):
        windows = {block.window for block in (*parts.blocks[at], parts.blocks[successor])}
        if len(windows) > 1:
            raise ModelError(
                f"replace.theseus: blocks {at.start} to {at.stop - 1} and block {successor}, which their successor "
                f"starts from, are local and global ones, and {parts.family} gives each its own mask. Write groups of "
                "one kind, such as [1, 2, 1, 2], with start: group, or take prune.layers."
            )
