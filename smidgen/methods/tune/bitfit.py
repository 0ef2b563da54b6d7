"""Tune the biases alone.

Idea       b' = b + delta for the biases of the blocks' projections and norms, delta from 0, and nothing else but the
           head (BitFit: Ben Zaken, Ravfogel and Goldberg 2022, arXiv:2106.10199). About 0.1 % of a BERT; `sites` of
           query and up alone, the paper's subset, is half of that.
Takes      A float model, and another method with a loss in the same stage: tune.full for labels, or any distil.*.
Leaves     The same model with other biases, and a delta: the shifts and the head. With `add`, biases where there were
           none: ModernBERT has none at all, and is then reloaded after `import smidgen`.
Beside     tune.full, distil.*, tune.adapter.
Fails      Wants a learning rate ten times that of full tuning, 1e-3 or so. Falls behind on many labels (the authors'
           own sweep on SQuAD). A model without biases is refused unless `add` is true.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from smidgen import grafting
from smidgen.method import Context, Method, Needs, Part, one_of

if TYPE_CHECKING:
    from smidgen.grafts._parts import Graft

SITES = ("query", "key", "value", "out", "up", "down", "norms")


@final
@dataclass(frozen=True)
class BitFit(Method["Graft"]):
    sites: tuple[str, ...] = SITES  # whose biases: query, key, value, out, up, down, norms
    add: bool = False  # put biases of 0 where a model has none

    needs: ClassVar[Needs] = Needs(training=True)

    def faults(self) -> Iterator[str]:
        for site in self.sites:
            yield from one_of("sites", site, SITES)
        if not self.sites:
            yield f"sites: got none, wanted some of {', '.join(SITES)}."

    def begin(self, ctx: Context) -> Graft:
        return grafting.begin(ctx, "bias", {"sites": self.sites, "add": self.add})

    def end(self, state: Graft, ctx: Context) -> None:
        grafting.end(state, ctx)

    def adds(self, state: Graft, ctx: Context) -> Iterable[Part]:
        yield grafting.part(state)
