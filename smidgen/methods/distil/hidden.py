"""Learn the teacher's hidden states, block by block.

Idea       Student block m learns from teacher block g(m). `mse`: L = MSE(H_s W, H_t), W a learned projection, left
           out where the widths agree unless asked for (TinyBERT, Jiao et al. 2020, arXiv:1909.10351). `cosine`:
           L = 1 - cos(H_s, H_t) (DistilBERT, Sanh et al. 2019, arXiv:1910.01108). `kl`: L = KL(softmax(H_t) ||
           softmax(gelu(H_s W + b))), both over the width (XtremeDistil, Mukherjee and Awadallah 2020,
           arXiv:2004.05686; its code takes the bare states, clipped to 1e-7 to 1, for distributions, the softmax is
           ours). A mean over real tokens and over the pairs of blocks. `mapping: dynamic` is for a student whose
           blocks are being pruned: every third teacher block is learnt by the student block that was nearest in the
           step before, in order, none whose feed-forward is shut (CoFi, Xia, Zhong, Chen 2022, arXiv:2204.00408).
Takes      A float student whose tokens have states, also a BiLSTM, and a teacher of the same tokenizer; any widths with
           a projection. No labels.
Leaves     The same model with other weights; the projections are thrown away.
Beside     distil.logits for the answers. distil.hidden alone leaves the head untrained.
Fails      A student too shallow to imitate spends itself on it: at one or two blocks try the last block only, or none.
           `kl` of small entries is about half the `mse` of centred states; large entries count exponentially more.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from smidgen.anatomy import anatomy, states
from smidgen.batch import summed
from smidgen.distances import cosine, mse, soft_targets
from smidgen.mapping import RULES, Pairing, in_order, mapping_faults, matched
from smidgen.method import Context, Method, Needs, above, one_of
from smidgen.surgery import choose
from smidgen.tape import Tape


@final
@dataclass(frozen=True)
class Hidden(Method["Projections"]):
    loss_kind: str = "mse"  # mse (TinyBERT) | cosine (DistilBERT) | kl (XtremeDistil)
    mapping: Pairing = "uniform"  # uniform | skip | middle | first | last | dynamic | [[student, teacher], ...]
    projection: str = "auto"  # auto = where the widths differ, and for kl | always
    embeddings: bool = False  # match the embedding layer as well
    weight: float = 1.0  # among the other terms

    needs: ClassVar[Needs] = Needs(teacher=True, same_tokenizer=True, inside=True)

    def faults(self) -> Iterator[str]:
        yield from one_of("loss_kind", self.loss_kind, DISTANCES)
        yield from mapping_faults(self.mapping, (*RULES, "dynamic"))
        yield from one_of("projection", self.projection, ("auto", "always"))
        yield from above("weight", self.weight, 0)

    def begin(self, ctx: Context) -> Projections:
        assert ctx.model is not None
        here, dynamic = states(ctx.model), self.mapping == "dynamic"
        mapping = thirds(len(here.layers), ctx.teacher_blocks) if dynamic else self.mapping
        names = [(f"block.{s}.hidden", f"block.{t}.hidden") for s, t in matched(ctx, "distil.hidden", mapping)]
        if self.embeddings:
            names.insert(0, ("embeddings", "embeddings"))
        blocks = [f"block.{i}.hidden" for i in range(len(here.layers))] if dynamic else []
        ctx.listen(student=[*(s for s, _ in names), *blocks], teacher=[t for _, t in names])
        torch.manual_seed(ctx.seed)
        widths = [here.input_size if student == "embeddings" else here.hidden_size for student, _ in names]
        maps = [self._projection(width, ctx.teacher_width) for width in widths]
        return Projections(names, maps, blocks, functools.partial(live, ctx) if dynamic else tuple)

    def loss(self, state: Projections, tape: Tape) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        for i, (student, _) in enumerate(state.names):
            here = self.weight / len(state.names) * self._mean(state, tape, i, student)
            terms[student] = terms[student] + here if student in terms else here
        with torch.no_grad():
            for i in state.chosen:
                state.heard[i] += torch.stack([self._mean(state, tape, i, name) for name in state.blocks])
        return terms

    def step(self, state: Projections, t: float) -> None:
        if state.chosen:
            state.choose()

    def _mean(self, state: Projections, tape: Tape, i: int, student: str) -> Tensor:
        """How far what a student's tap gives is from what the teacher's of pair i does."""
        here, there = state.maps[i](tape.student[student].float()), tape.teacher[state.pairs[i][1]].float()
        return tape.mean(DISTANCES[self.loss_kind](here, there))

    def _projection(self, width: int, wide: int) -> nn.Module:
        """From the student's width to the teacher's; a square one starts as the identity."""
        if self.loss_kind == "kl":
            return nn.Sequential(nn.Linear(width, wide), nn.GELU())
        if self.projection == "auto" and width == wide:
            return nn.Identity()
        linear = nn.Linear(width, wide, bias=False)
        if width == wide:
            nn.init.eye_(linear.weight)
        return linear


class Projections(nn.Module):
    """Pairs of taps, student and teacher, with what each state of the student goes through before it is compared.

    blocks   the student's blocks, where they are paired anew after each step
    live     of these, the numbers of those that may be taken
    """

    heard: Tensor  # (pairs, blocks): how far all blocks were from each tap of the teacher, in this step so far
    taken: Tensor  # (chosen,): the numbers of the blocks that are paired now

    def __init__(
        self,
        pairs: list[tuple[str, str]],
        maps: list[nn.Module],
        blocks: Sequence[str] = (),
        live: Callable[[], Collection[int]] = tuple,
    ) -> None:
        super().__init__()
        self.pairs, self.maps, self.blocks, self.live = pairs, nn.ModuleList(maps), blocks, live
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

    def choose(self) -> None:
        """Pair the teacher's blocks anew, by the whole step that is done."""
        distances = summed(self.heard).tolist()
        found = in_order([distances[i] for i in self.chosen], self.live())
        self.taken.copy_(torch.tensor(found))
        self.heard.zero_()


def width_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of each token's softmax over the width: (B, L, H), (B, L, H) -> (B, L)."""
    return soft_targets(student, teacher, 1)


DISTANCES = {"mse": mse, "cosine": cosine, "kl": width_kl}


def thirds(student: int, teacher: int) -> tuple[tuple[int, int], ...]:
    """Every third block of the teacher, the last one among them, and as many of the student, spaced alike."""
    count = min(math.ceil(teacher / 3), student)
    kept = (choose(blocks, count, "uniform") if count else () for blocks in (student, teacher))
    return tuple(zip(*kept, strict=True))


def live(ctx: Context) -> list[int]:
    """Blocks whose feed-forward is neither shut nor cut away; all of them where there is no other."""
    assert ctx.model is not None
    blocks, shut = anatomy(ctx.model).blocks, ctx.shut()
    return [b.index for b in blocks if b.width and b.index not in shut] or [b.index for b in blocks]
