"""Train a narrow encoder beside the frozen one that reads its states on the way up.

Idea       s_0 = Down_0 h_0, then s_i = Layer_i(mu_i Down_i h_i + (1 - mu_i) s_(i-1)) with mu_i = sigmoid(a_i / 0.1),
           a_i from 0; h_i is what block i of the model gives, Down_i brings it to hidden / `reduction`, Layer_i is a
           Transformer block as narrow. Up norm(s) is added to the last state before the head reads it, Up from 0
           (ladder side-tuning: Sung et al. 2022, arXiv:2206.06522, there for T5 and BART). The backward pass stays in
           the narrow encoder: nothing inside the model's blocks is kept for it. `every`: rungs at each nth block alone,
           the last one among them.
Takes      A float model, and another method with a loss in the same stage: tune.full for labels, or any distil.*.
Leaves     The model with the ladder in it, reloaded after `import smidgen`; and a delta: the ladder and the head.
Beside     tune.full, distil.*.
Fails      The narrow encoder starts at random; the paper cuts it from the model's own weights by their importance,
           which helps where labels are few. Wants a high learning rate, 3e-3 in the paper. It runs beside the model
           when deployed too: nothing folds into the weights. Tasks do not share a batch in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

from smidgen import grafting
from smidgen.method import Context, Method, Needs, Part, between, name_of

if TYPE_CHECKING:
    from smidgen.grafts._parts import Graft


@final
@dataclass(frozen=True)
class Ladder(Method["Graft"]):
    reduction: int = 8  # how many times narrower than the model
    heads: int = 4  # a layer; the width is cut to a multiple of it
    every: int = 1  # blocks between two rungs

    needs: ClassVar[Needs] = Needs(training=True)

    def faults(self) -> Iterator[str]:
        yield from between("reduction", self.reduction, 1, 64)
        yield from between("heads", self.heads, 1, 64)
        yield from between("every", self.every, 1, 64)

    def clashes(self, others: Sequence[Method[Any]]) -> Iterator[str]:
        if any(name_of(other) == "tune.prompt" for other in others):
            yield "it reads a text's own tokens, and tune.prompt adds others. Give a stage each."

    def frozen(self, blocks: int) -> tuple[int, ...]:
        """What the embeddings, the blocks with a rung and the last one give is the same in every step."""
        from smidgen.grafts.ladder import rungs

        return rungs(blocks, self.every)

    def begin(self, ctx: Context) -> Graft:
        return grafting.begin(ctx, "ladder", {"reduction": self.reduction, "heads": self.heads, "every": self.every})

    def end(self, state: Graft, ctx: Context) -> None:
        grafting.end(state, ctx)

    def adds(self, state: Graft, ctx: Context) -> Iterable[Part]:
        yield grafting.part(state)
