"""Learn the teacher's answers, not only the right ones.

Idea       Soft targets at temperature T: L = T^2 * KL(softmax(v/T) || softmax(z/T)), z the student's and v the
           teacher's logits; T^2 keeps the gradient's size when T changes (Hinton, Vinyals, Dean 2015,
           arXiv:1503.02531). For T -> infinity it becomes the squared difference of the logits, which `loss_kind: mse`
           uses directly (Tang et al. 2019, arXiv:1903.12136). Multi-label classes are each a choice between yes and
           no. A tagger's words are examples of their own; of a span, start and end are each a choice among tokens.
           With several tasks the softmax is within each of them, and L the mean over all tasks (`mse`: over all
           labels), since a teacher has an answer to each for every text, whichever task the text is of (after Liu et
           al. 2019, arXiv:1911.03588).
Takes      A float student and a teacher's logits; any teacher, any tokenizer, with or without labels. `hard` mixes the
           task's own loss in: (1 - hard) * L + hard * task, over the rows that have a label.
Leaves     The same model with other weights.
Beside     distil.hidden adds what is inside. prune.layers before it gives the student its start.
Fails      A high temperature drowns a small student in the order of the wrong classes; small students want T of 1 to 4.
           With two classes there is little in the wrong class, so logit MSE is as good.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from smidgen.distances import soft_targets
from smidgen.method import Context, Method, Needs, above, one_of, share
from smidgen.tape import Tape
from smidgen.tasks import Several, Task


@final
@dataclass(frozen=True)
class Logits(Method[Task]):
    loss_kind: str = "kl"  # kl = soft targets at the temperature; mse = squared difference of the logits
    temperature: float = 2.0  # T of kl; above 1 shows more of the order of the wrong classes
    hard: float = 0.0  # share of the task's own loss on labelled rows
    weight: float = 1.0  # of the whole among the other terms

    needs: ClassVar[Needs] = Needs(teacher=True)

    def faults(self) -> Iterator[str]:
        yield from one_of("loss_kind", self.loss_kind, ("kl", "mse"))
        yield from above("temperature", self.temperature, 0)
        yield from share("hard", self.hard)
        yield from above("weight", self.weight, 0)

    def reads_labels(self) -> bool:
        return self.hard > 0

    def begin(self, ctx: Context) -> Task:
        ctx.listen(student=["logits"], teacher=["logits"])
        return ctx.task

    def loss(self, state: Task, tape: Tape) -> dict[str, Tensor]:
        student, teacher = tape.student["logits"].float(), tape.teacher["logits"].float()
        values = self._distance(state, student, teacher, tape.mask)
        terms = {"soft": self.weight * (1 - self.hard) * tape.decided_mean(values)}
        if self.hard:
            terms["hard"] = self.weight * self.hard * tape.labelled_mean(state.loss(student, tape.known_labels))
        return terms

    def _distance(self, task: Task, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        """(B,), or (B, L) where each word is decided."""
        if task.name == "answer":
            return self._positions(student, teacher, mask.bool())
        if self.loss_kind == "mse":
            return logit_mse(student, teacher)
        if isinstance(task, Several):
            parts = [soft_targets(student[:, at], teacher[:, at], self.temperature) for at in task.segments]
            return torch.stack(parts).mean(0)
        soft = soft_binary if task.multi_label else soft_targets
        return soft(student, teacher, self.temperature)

    def _positions(self, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        """(B,): start and end are each a choice among the real tokens of a row; the mean of the two."""
        if self.loss_kind == "mse":
            return torch.where(mask, logit_mse(student, teacher), 0).sum(-1) / mask.sum(-1)
        mine, theirs = (logits.transpose(1, 2).masked_fill(~mask[:, None], -1e9) for logits in (student, teacher))
        return soft_targets(mine, theirs, self.temperature).mean(-1)


def soft_binary(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The same for classes that do not exclude each other, a mean over classes: (B, C), (B, C) -> (B,)."""
    p = (teacher / temperature).sigmoid()
    cross = F.binary_cross_entropy_with_logits(student / temperature, p, reduction="none")
    entropy = F.binary_cross_entropy_with_logits(teacher / temperature, p, reduction="none")
    return (cross - entropy).mean(-1) * temperature**2


def logit_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference over classes: (..., C), (..., C) -> (...)."""
    return (student - teacher).square().mean(-1)
