"""Put learnt vectors behind the first token of every text, and tune these alone.

Idea       The body reads [x0, p1 ... pP, x1 ...] in place of [x0, x1 ...], P = `length` vectors the size of a word's,
           at the start those of words drawn, before positions and norm (Lester et al. 2021, arXiv:2104.08691). What it
           gives of them is dropped, so tags and spans have their places. P x hidden numbers in all.
Takes      A float model, and another method with a loss in the same stage: tune.full for labels, or any distil.*.
Leaves     The model with the prompt in it, which reads P tokens less of a text, reloaded after `import smidgen`; and a
           delta: vectors and head.
Beside     tune.full, distil.*, tune.prefix, tune.adapter. Taps are of the tokens; there are no `scores` and no `probs`.
Fails      Near full tuning for models of billions of weights only; weak on encoders the size of BERT and on tags, where
           tune.prefix is better. P more tokens cost time in every block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from smidgen import grafting
from smidgen.method import Context, Method, Needs, Part, between

if TYPE_CHECKING:
    from smidgen.grafts._parts import Graft


@final
@dataclass(frozen=True)
class Prompt(Method["Graft"]):
    length: int = 20  # vectors

    needs: ClassVar[Needs] = Needs(training=True)

    @property
    def places(self) -> int:
        return self.length

    def faults(self) -> Iterator[str]:
        yield from between("length", self.length, 1, 512)

    def begin(self, ctx: Context) -> Graft:
        return grafting.begin(ctx, "prompt", {"length": self.length})

    def end(self, state: Graft, ctx: Context) -> None:
        grafting.end(state, ctx)

    def adds(self, state: Graft, ctx: Context) -> Iterable[Part]:
        yield grafting.part(state)
