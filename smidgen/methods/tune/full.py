"""Fine-tune every weight on the labels.

Idea       Minimise the task's own loss on the labelled rows: L = mean_i loss(z_i, y_i). Cross entropy for single-label
           classification, the mean of the classes' binary cross entropies for multi-label (Devlin et al. 2019,
           arXiv:1810.04805, section 3.2). With several tasks, the cross entropy inside the row's own task.
Takes      A float model and labels. Rows without a label, such as transfer texts, are passed over.
Leaves     The same model with other weights.
Beside     Any distil.* method: their terms add up. Without this one a stage uses no labels at all.
Fails      A few hundred labels overfit within epochs; more epochs do not help then, transfer texts with a teacher do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from smidgen.method import Context, Method, Needs, above
from smidgen.tape import Tape
from smidgen.tasks import Task


@final
@dataclass(frozen=True)
class Full(Method[Task]):
    weight: float = 1.0  # of the task's loss among the other terms

    needs: ClassVar[Needs] = Needs(labels=True)

    def faults(self) -> Iterator[str]:
        yield from above("weight", self.weight, 0)

    def begin(self, ctx: Context) -> Task:
        return ctx.task

    def loss(self, state: Task, tape: Tape) -> dict[str, Tensor]:
        return {"task": self.weight * tape.labelled_mean(state.loss(tape.student["logits"].float(), tape.known_labels))}
