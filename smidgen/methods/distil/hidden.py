"""Learn the teacher's hidden states, block by block.

Idea       Student block m learns from teacher block g(m). `mse`: L = MSE(H_s W, H_t), W a learned projection, left
           out where the widths agree unless asked for (TinyBERT, Jiao et al. 2020, arXiv:1909.10351). `cosine`:
           L = 1 - cos(H_s, H_t) (DistilBERT, Sanh et al. 2019, arXiv:1910.01108). A mean over real tokens and over
           the pairs of blocks.
Takes      A float student and a teacher of the same tokenizer; any widths with a projection. No labels.
Leaves     The same model with other weights; the projections are thrown away.
Beside     distil.logits for the answers. distil.hidden alone leaves the head untrained.
Fails      A student too shallow to imitate spends itself on it: at one or two blocks try the last block only, or none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from smidgen.anatomy import anatomy
from smidgen.distances import cosine, mse
from smidgen.mapping import mapping_faults, matched
from smidgen.method import Context, Method, Needs, above, one_of
from smidgen.tape import Tape


@final
@dataclass(frozen=True)
class Hidden(Method["Projections"]):
    loss_kind: str = "mse"  # mse (TinyBERT) | cosine (DistilBERT)
    mapping: str | tuple[tuple[int, int], ...] = "uniform"  # skip | uniform | first | last | [[student, teacher], ...]
    projection: str = "auto"  # auto = where the widths differ | always
    embeddings: bool = False  # match the embedding layer as well
    weight: float = 1.0  # among the other terms

    needs: ClassVar[Needs] = Needs(teacher=True, same_tokenizer=True, inside=True)

    def faults(self) -> Iterator[str]:
        yield from one_of("loss_kind", self.loss_kind, ("mse", "cosine"))
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
        width = anatomy(ctx.model).hidden_size
        project = self.projection == "always" or width != ctx.teacher_width
        torch.manual_seed(ctx.seed)
        return Projections(names, width, ctx.teacher_width if project else 0)

    def loss(self, state: Projections, tape: Tape) -> dict[str, Tensor]:
        distance = cosine if self.loss_kind == "cosine" else mse
        terms = {}
        for i, (student, teacher) in enumerate(state.names):
            here = state.project(i, tape.student[student].float())
            terms[student] = self.weight / len(state.names) * tape.mean(distance(here, tape.teacher[teacher].float()))
        return terms


class Projections(nn.Module):
    """One linear map a pair of blocks, student width -> teacher width; none where `wide` is 0."""

    def __init__(self, names: list[tuple[str, str]], width: int, wide: int) -> None:
        super().__init__()
        self.names = names
        maps = [nn.Linear(width, wide, bias=False) for _ in names] if wide else []
        for linear in maps:
            if width == wide:
                nn.init.eye_(linear.weight)
        self.maps = nn.ModuleList(maps)

    def project(self, i: int, hidden: Tensor) -> Tensor:
        return self.maps[i](hidden) if len(self.maps) else hidden
