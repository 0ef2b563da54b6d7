"""Learn to find masked tokens with a teacher beside: the triple loss of DistilBERT's pretraining.

Idea       L = 5 T^2 KL(softmax(v/T) || softmax(z/T)) + 2 CE(z, masked token) + 1 (1 - cos(h, g)), z and v the student's
           and the teacher's logits over the vocabulary, h and g their last hidden states, T = 2 (DistilBERT, Sanh et
           al. 2019, arXiv:1910.01108; the weights and T are those of its published code). A mean over the tokens that
           `tokens` says, over masked ones, and over real ones. Both read the same masks, drawn anew in each step.
Takes      A float student and a masked-language model of the same tokenizer and width as its teacher; bare texts.
Leaves     The same masked-language model with other weights, to be the `model` of a recipe for another task.
Beside     prune.layers with `rule: ends`, DistilBERT's start. tune.full is its second term, distil.logits its first.
Fails      Logits are as wide as the vocabulary: with `tokens: all` and long texts make `micro_tokens` small. The start
           from the teacher's blocks is worth more than any of the three terms.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from smidgen.distances import cosine, soft_targets
from smidgen.mapping import matched, need_equal_widths
from smidgen.method import Context, Method, Needs, above, at_least, one_of
from smidgen.tape import Tape
from smidgen.tasks import Task


@dataclass(frozen=True)
class Last:
    """The task, and the taps on the last hidden states; none where they are not compared."""

    task: Task
    student: str = ""
    teacher: str = ""


@final
@dataclass(frozen=True)
class Triple(Method[Last]):
    soft: float = 5.0  # weight of the teacher's soft targets
    hard: float = 2.0  # weight of the masked tokens themselves
    cosine: float = 1.0  # weight of the last hidden states; 0 where the widths differ
    temperature: float = 2.0  # T of the soft targets
    tokens: str = "masked"  # where the soft targets are learnt: masked | all (DistilBERT's own, at many times the cost)

    needs: ClassVar[Needs] = Needs(
        labels=True, teacher=True, same_tokenizer=True, inside=True, online=True, task="mask_language"
    )

    def faults(self) -> Iterator[str]:
        for name in ("soft", "hard", "cosine"):
            yield from at_least(name, getattr(self, name), 0)
        if not (self.soft or self.hard or self.cosine):
            yield f"soft: got {self.soft}, wanted more than 0, as hard and cosine are 0 too."
        yield from above("temperature", self.temperature, 0)
        yield from one_of("tokens", self.tokens, ("masked", "all"))

    def begin(self, ctx: Context) -> Last:
        ctx.listen(student=["logits"], teacher=["logits"])
        ctx.every_token = self.tokens == "all"
        if not self.cosine:
            return Last(ctx.task)
        need_equal_widths(ctx, "distil.mask_language")
        ((here, there),) = matched(ctx, "distil.mask_language", ((-1, -1),))
        last = Last(ctx.task, f"block.{here}.hidden", f"block.{there}.hidden")
        ctx.listen(student=[last.student], teacher=[last.teacher])
        return last

    def loss(self, state: Last, tape: Tape) -> dict[str, Tensor]:
        student, teacher, terms = tape.student["logits"].float(), tape.teacher["logits"].float(), {}
        if self.soft:
            terms["soft"] = self.soft * tape.decided_mean(soft_targets(student, teacher, self.temperature))
        if self.hard:
            terms["hard"] = self.hard * tape.labelled_mean(state.task.loss(student, tape.known_labels))
        if self.cosine:
            here, there = tape.student[state.student].float(), tape.teacher[state.teacher].float()
            terms["cosine"] = self.cosine * tape.mean(cosine(here, there))
        return terms
