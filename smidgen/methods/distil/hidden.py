"""Learn the teacher's hidden states, block by block.

Idea       Student block m learns from teacher block g(m). `mse`: L = MSE(H_s W, H_t), W a learned projection, left
           out where the widths agree unless asked for (TinyBERT, Jiao et al. 2020, arXiv:1909.10351). `cosine`:
           L = 1 - cos(H_s, H_t) (DistilBERT, Sanh et al. 2019, arXiv:1910.01108). `kl`: L = KL(softmax(H_t) ||
           softmax(gelu(H_s W + b))), both over the width (XtremeDistil, Mukherjee and Awadallah 2020,
           arXiv:2004.05686; its code takes the bare states, clipped to 1e-7 to 1, for distributions, the softmax is
           ours). A mean over real tokens and over the pairs of blocks.
Takes      A float student whose tokens have states, also a BiLSTM, and a teacher of the same tokenizer; any widths with
           a projection. No labels.
Leaves     The same model with other weights; the projections are thrown away.
Beside     distil.logits for the answers. distil.hidden alone leaves the head untrained.
Fails      A student too shallow to imitate spends itself on it: at one or two blocks try the last block only, or none.
           `kl` of small entries is about half the `mse` of centred states; large entries count exponentially more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from smidgen.anatomy import states
from smidgen.distances import cosine, mse, soft_targets
from smidgen.mapping import mapping_faults, matched
from smidgen.method import Context, Method, Needs, above, one_of
from smidgen.tape import Tape


@final
@dataclass(frozen=True)
class Hidden(Method["Projections"]):
    loss_kind: str = "mse"  # mse (TinyBERT) | cosine (DistilBERT) | kl (XtremeDistil)
    mapping: str | tuple[tuple[int, int], ...] = "uniform"  # uniform | skip | middle | first | last | [[0, 5], ...]
    projection: str = "auto"  # auto = where the widths differ, and for kl | always
    embeddings: bool = False  # match the embedding layer as well
    weight: float = 1.0  # among the other terms

    needs: ClassVar[Needs] = Needs(teacher=True, same_tokenizer=True, inside=True)

    def faults(self) -> Iterator[str]:
        yield from one_of("loss_kind", self.loss_kind, DISTANCES)
        yield from mapping_faults(self.mapping)
        yield from one_of("projection", self.projection, ("auto", "always"))
        yield from above("weight", self.weight, 0)

    def begin(self, ctx: Context) -> Projections:
        pairs = matched(ctx, "distil.hidden", self.mapping)
        names = [(f"block.{s}.hidden", f"block.{t}.hidden") for s, t in pairs]
        if self.embeddings:
            names.insert(0, ("embeddings", "embeddings"))
        ctx.listen(student=[s for s, _ in names], teacher=[t for _, t in names])
        assert ctx.model is not None
        here = states(ctx.model)
        torch.manual_seed(ctx.seed)
        widths = [here.input_size if student == "embeddings" else here.hidden_size for student, _ in names]
        return Projections(names, [self._projection(width, ctx.teacher_width) for width in widths])

    def loss(self, state: Projections, tape: Tape) -> dict[str, Tensor]:
        distance = DISTANCES[self.loss_kind]
        terms = {}
        for i, (student, teacher) in enumerate(state.names):
            here = state.maps[i](tape.student[student].float())
            terms[student] = self.weight / len(state.names) * tape.mean(distance(here, tape.teacher[teacher].float()))
        return terms

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
    """Pairs of taps, student and teacher, with what each state of the student goes through before it is compared."""

    def __init__(self, names: list[tuple[str, str]], maps: list[nn.Module]) -> None:
        super().__init__()
        self.names, self.maps = names, nn.ModuleList(maps)


def width_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of each token's softmax over the width: (B, L, H), (B, L, H) -> (B, L)."""
    return soft_targets(student, teacher, 1)


DISTANCES = {"mse": mse, "cosine": cosine, "kl": width_kl}
