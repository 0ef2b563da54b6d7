"""Learn the teacher's hidden states, block by block.

Idea       Student block m learns from teacher block g(m). `mse`: L = MSE(H_s W, H_t), W a learned projection, left
           out where the widths agree unless asked for (TinyBERT, Jiao et al. 2020, arXiv:1909.10351). `cosine`:
           L = 1 - cos(H_s, H_t) (DistilBERT, Sanh et al. 2019, arXiv:1910.01108). A mean over real tokens and over
           the pairs of blocks. `mapping: dynamic` is for a student whose blocks are being pruned: every third teacher
           block is learnt by the student block that was nearest in the step before, in order, none whose feed-forward
           is shut (CoFi, Xia, Zhong, Chen 2022, arXiv:2204.00408).
Takes      A float student and a teacher of the same tokenizer; any widths with a projection. No labels.
Leaves     The same model with other weights; the projections are thrown away.
Beside     distil.logits for the answers. distil.hidden alone leaves the head untrained.
Fails      A student too shallow to imitate spends itself on it: at one or two blocks try the last block only, or none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from smidgen.anatomy import Anatomy, anatomy
from smidgen.batch import summed
from smidgen.distances import cosine, mse
from smidgen.mapping import RULES, Pairing, in_order, mapping_faults, matched
from smidgen.method import Context, Method, Needs, above, one_of
from smidgen.surgery import choose
from smidgen.tape import Tape


@final
@dataclass(frozen=True)
class Hidden(Method["Projections"]):
    loss_kind: str = "mse"  # mse (TinyBERT) | cosine (DistilBERT)
    mapping: Pairing = "uniform"  # skip | uniform | first | last | dynamic | [[student, teacher], ...]
    projection: str = "auto"  # auto = where the widths differ | always
    embeddings: bool = False  # match the embedding layer as well
    weight: float = 1.0  # among the other terms

    needs: ClassVar[Needs] = Needs(teacher=True, same_tokenizer=True, inside=True)

    def faults(self) -> Iterator[str]:
        yield from one_of("loss_kind", self.loss_kind, ("mse", "cosine"))
        yield from mapping_faults(self.mapping, (*RULES, "dynamic"))
        yield from one_of("projection", self.projection, ("auto", "always"))
        yield from above("weight", self.weight, 0)

    def begin(self, ctx: Context) -> Projections:
        assert ctx.model is not None
        parts = anatomy(ctx.model)
        dynamic = self.mapping == "dynamic"
        mapping = thirds(len(parts.blocks), ctx.teacher_blocks) if dynamic else self.mapping
        names = [(f"block.{s}.hidden", f"block.{t}.hidden") for s, t in matched(ctx, "distil.hidden", mapping)]
        if self.embeddings:
            names.insert(0, ("embeddings", "embeddings"))
        blocks = [f"block.{block.index}.hidden" for block in parts.blocks] if dynamic else []
        ctx.listen(student=[*(s for s, _ in names), *blocks], teacher=[t for _, t in names])
        wide = ctx.teacher_width if self.projection == "always" or parts.hidden_size != ctx.teacher_width else 0
        torch.manual_seed(ctx.seed)
        return Projections(names, parts.hidden_size, wide, blocks, lambda: live(parts, ctx.shut()))

    def loss(self, state: Projections, tape: Tape) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        for i, (student, _) in enumerate(state.names):
            here = self.weight / len(state.names) * self._mean(state, tape, i, student)
            terms[student] = terms[student] + here if student in terms else here
        with torch.no_grad():
            for i in state.chosen:
                state.heard[i] += torch.stack([self._mean(state, tape, i, name) for name in state.blocks])
        return terms

    def _mean(self, state: Projections, tape: Tape, i: int, student: str) -> Tensor:
        """How far what a student's tap gives is from what the teacher's of pair i does."""
        distance = cosine if self.loss_kind == "cosine" else mse
        here, there = state.project(i, tape.student[student].float()), tape.teacher[state.pairs[i][1]].float()
        return tape.mean(distance(here, there))

    def step(self, state: Projections, t: float) -> None:
        if state.chosen:
            state.choose()


class Projections(nn.Module):
    """Pairs of student's and teacher's taps, with one linear map each, student width -> teacher width.

    wide     the teacher's width; 0 = no maps
    blocks   the student's blocks, where they are paired anew after each step
    live     of these, the numbers of those that may be taken
    """

    heard: Tensor  # (pairs, blocks): how far all blocks were from each tap of the teacher, in this step so far
    taken: Tensor  # (chosen,): the numbers of the blocks that are paired now

    def __init__(
        self,
        pairs: list[tuple[str, str]],
        width: int,
        wide: int,
        blocks: Sequence[str] = (),
        live: Callable[[], Collection[int]] = tuple,
    ) -> None:
        super().__init__()
        self.pairs, self.blocks, self.live = pairs, blocks, live
        maps = [nn.Linear(width, wide, bias=False) for _ in pairs] if wide else []
        for linear in maps:
            if width == wide:
                nn.init.eye_(linear.weight)
        self.maps = nn.ModuleList(maps)
        self.chosen = [i for i, (student, _) in enumerate(pairs) if student in blocks]
        taken = torch.tensor([blocks.index(pairs[i][0]) for i in self.chosen])
        self.register_buffer("taken", taken, persistent=bool(self.chosen))
        self.register_buffer("heard", torch.zeros(len(pairs), len(blocks)), persistent=False)

    @property
    def names(self) -> list[tuple[str, str]]:
        """The pairs as they are in this step."""
        found = list(self.pairs)
        for i, block in zip(self.chosen, self.taken.tolist(), strict=True):
            found[i] = (self.blocks[block], found[i][1])
        return found

    def project(self, i: int, hidden: Tensor) -> Tensor:
        return self.maps[i](hidden) if len(self.maps) else hidden

    def choose(self) -> None:
        """Pair the teacher's blocks anew, by the whole step that is done."""
        distances = summed(self.heard).tolist()
        found = in_order([distances[i] for i in self.chosen], self.live())
        self.taken.copy_(torch.tensor(found))
        self.heard.zero_()


def thirds(student: int, teacher: int) -> tuple[tuple[int, int], ...]:
    """Every third block of the teacher, the last one among them, and as many of the student, spaced alike."""
    count = min(math.ceil(teacher / 3), student)
    kept = (choose(blocks, count, "uniform") if count else () for blocks in (student, teacher))
    return tuple(zip(*kept, strict=True))


def live(parts: Anatomy, shut: Collection[int]) -> list[int]:
    """Blocks whose feed-forward is neither shut nor cut away; all of them where there is no other."""
    every = [block.index for block in parts.blocks]
    return [block.index for block in parts.blocks if block.width and block.index not in shut] or every
