"""Put small bottlenecks into the frozen blocks and tune these alone.

Idea       h' = h + U f(D h + d) + u, with D (hidden, width) and U (width, hidden) near 0, so that it starts near the
           identity. `houlsby`: after attention's output projection and after the feed-forward, before the residual,
           and the norms are tuned too (Houlsby et al. 2019, arXiv:1902.00751). `pfeiffer`: after the feed-forward
           alone (Pfeiffer et al. 2020, arXiv:2005.00052). `parallel`: from the feed-forward's input to its output,
           times `scale` (He et al. 2022, arXiv:2110.04366). 2 x width x hidden + hidden + width numbers each.
           AdapterDrop (Rücklé et al. 2021, arXiv:2010.11918): none in the first `drop` blocks, which then do the same
           for all tasks and need no gradient; `random` passes by the first n, another n each step, so that the model
           bears to do without the lowest. Dev is scored with all of them.
Takes      A float model, and another method with a loss in the same stage: tune.full for labels, or any distil.*.
Leaves     The model with the adapters in it, reloaded after `import smidgen`; and a delta: adapters and head.
Beside     tune.full, distil.*, tune.bitfit. tune.fusion joins several.
Fails      Far from the identity it may not train. Few parameters do not mean fast training: the backward pass still
           crosses the frozen blocks, down to the lowest adapter.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import nn

from smidgen import grafting
from smidgen.method import Context, Method, Needs, Part, above, between, one_of

KINDS = ("houlsby", "pfeiffer", "parallel")


@final
@dataclass(frozen=True)
class Adapter(Method[nn.ModuleList]):
    kind: str = "pfeiffer"  # houlsby | pfeiffer | parallel
    width: int = 48  # of the bottleneck
    activation: str = "relu"  # relu | gelu | silu
    scale: float = 1.0  # of what an adapter adds; 4 is usual for parallel
    drop: int | str = 0  # no adapters in the first so many blocks; random: another number each step
    norms: bool = True  # of houlsby: the norms of its blocks are tuned too; AdapterHub's folders hold adapters alone

    needs: ClassVar[Needs] = Needs(training=True)

    def faults(self) -> Iterator[str]:
        yield from one_of("kind", self.kind, KINDS)
        yield from between("width", self.width, 1, 4096)
        yield from one_of("activation", self.activation, ("relu", "gelu", "silu"))
        yield from above("scale", self.scale, 0)
        if self.drop != "random" and (isinstance(self.drop, str) or self.drop < 0):
            yield f"drop: got {self.drop!r}, wanted a number from 0, or random."

    def frozen(self, blocks: int) -> tuple[int, ...]:
        """Blocks below the lowest adapter give the same in every step."""
        return (self.drop,) if isinstance(self.drop, int) and 0 < self.drop < blocks else ()

    def begin(self, ctx: Context) -> nn.ModuleList:
        first = self.drop if isinstance(self.drop, int) else 0
        settings = {"kind": self.kind, "width": self.width, "activation": self.activation, "scale": self.scale}
        grafts = [grafting.begin(ctx, "adapter", {**settings, "first": first})]
        if self.kind == "houlsby" and self.norms:
            grafts.append(grafting.begin(ctx, "norms", {"first": first}))
        if self.drop == "random":
            adapters: Any = grafts[0]
            adapters.seed = ctx.seed
            del adapters.skip
            adapters.register_buffer("skip", torch.zeros((), dtype=torch.long))  # so that checkpoints have it
        state = nn.ModuleList(grafts)
        self.step(state, 0.0)
        return state

    def step(self, state: nn.ModuleList, t: float) -> None:
        if self.drop == "random":
            adapters: Any = state[0]
            adapters.skip.fill_(random.Random(f"{adapters.seed} {t!r}").randrange(adapters.blocks))

    def end(self, state: nn.ModuleList, ctx: Context) -> None:
        adapters: Any = state[0]
        del adapters.skip
        adapters.skip = 0
        for graft in state:
            grafting.end(graft, ctx)  # type: ignore[arg-type]

    def adds(self, state: nn.ModuleList, ctx: Context) -> Iterable[Part]:
        return [grafting.part(graft) for graft in state]  # type: ignore[arg-type]
