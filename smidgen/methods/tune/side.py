"""Train a small network beside the frozen model and mix the two.

Idea       R(x) = alpha B(x) + (1 - alpha) S(x), token by token, before the head reads it. B is the model's last state;
           S reads what its embeddings give, down to `width`, through so many Transformer `blocks`, and back to the
           model's size; alpha = sigmoid(a) is learnt, from `alpha` (side-tuning: Zhang et al. 2020, arXiv:1912.13503,
           where it starts at 0.5). No gradient crosses the model: its states can be computed once.
Takes      A float model, and another method with a loss in the same stage: tune.full for labels, or any distil.*.
Leaves     The model with the network in it, reloaded after `import smidgen`; and a delta: the network, alpha, the head.
Beside     tune.full, distil.*. tune.ladder reads every block's states, for as little memory.
Fails      It starts far from the model: with alpha 0.5 half of what the head reads is noise. Of a text that is hard to
           understand S sees the embeddings alone; what B has left out stays out. Tasks do not share a batch in it.
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
class Side(Method["Graft"]):
    width: int = 96  # of the network, a multiple of its heads
    blocks: int = 2  # of it
    heads: int = 4  # a block
    alpha: float = 0.5  # the model's share at the start, above 0 and below 1

    needs: ClassVar[Needs] = Needs(training=True)

    def faults(self) -> Iterator[str]:
        yield from between("width", self.width, 1, 4096)
        yield from between("blocks", self.blocks, 1, 24)
        yield from between("heads", self.heads, 1, 64)
        if 1 <= self.heads <= 64 and self.width % self.heads:
            yield f"width: got {self.width}, wanted a multiple of heads, which is {self.heads}."
        if not 0 < self.alpha < 1:
            yield f"alpha: got {self.alpha}, wanted a share above 0 and below 1."

    def clashes(self, others: Sequence[Method[Any]]) -> Iterator[str]:
        if any(name_of(other) == "tune.prompt" for other in others):
            yield "it reads a text's own tokens, and tune.prompt adds others. Give a stage each."

    def frozen(self, blocks: int) -> tuple[int, ...]:
        """What the embeddings and the last block give is the same in every step."""
        return 0, blocks

    def begin(self, ctx: Context) -> Graft:
        settings = {"width": self.width, "blocks": self.blocks, "heads": self.heads, "alpha": self.alpha}
        return grafting.begin(ctx, "side", settings)

    def end(self, state: Graft, ctx: Context) -> None:
        grafting.end(state, ctx)

    def adds(self, state: Graft, ctx: Context) -> Iterable[Part]:
        yield grafting.part(state)
