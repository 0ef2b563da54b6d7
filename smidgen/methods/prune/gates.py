"""Learn which heads, inner units and sublayers to cut, by gates that train with the model to a price.

Idea       Each part has a hard-concrete gate z, drawn anew in each step, with a chance P(z != 0) that is learnt
           (Louizos, Welling, Kingma 2018, arXiv:1712.01312), on heads and inner units of feed-forwards (McCarley,
           Chakravarti, Sil 2019, arXiv:1910.06360) and on sublayers (CoFi, Xia, Zhong, Chen 2022, arXiv:2204.00408).
           With the share s of the price that stands on average and a target t that falls linearly from 1, the stage's
           losses get l1 (s - t) + l2 (s - t)^2. The multipliers climb, l2 from 30, without which s swings about t. In
           the end each sublayer keeps as many parts as are open on average, the most open ones, all gates shifted
           alike until the price is met, and what is left of z goes into the weights.
Takes      A float model of a family with an anatomy, trained for its task, and another method with a loss.
Leaves     A float model with fewer heads and units, not as many in each block; `found` in its record has the shape, the
           share of the price, and the shift: far from 0, the gates had not reached the target, and more epochs help.
Beside     tune.full, as McCarley; distil.logits and distil.hidden with mapping: dynamic, as CoFi. Train the cut model
           by distil.* in the stage after it. Dev is scored on what would be cut at that moment, down to the target; the
           last weights are kept.
Fails      Within a hundred steps: gates take about 5 / rate of them to shut. The hidden size has no gates: it stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from smidgen.clock import of_machine
from smidgen.edits.keep_heads import KeepHeads
from smidgen.edits.keep_width import KeepWidth
from smidgen.errors import InputError, NoEffect
from smidgen.gating import Gating
from smidgen.method import Context, Method, Needs, above, at_least, one_of, share
from smidgen.prices import left, shape_of, weights
from smidgen.surgery import fold
from smidgen.tape import Tape

KINDS = {"heads": ("heads",), "units": ("units",), "sublayers": ("attention", "feed_forward")}


@final
@dataclass(frozen=True)
class Gates(Method[Gating]):
    parts: tuple[str, ...] = ("heads", "units")  # what has gates: heads, units, sublayers
    keep: float = 0.5  # share of the price that stays
    speedup: float | None = None  # instead of keep: how many times less it is to cost
    price: str = "macs"  # weights, or macs, or the milliseconds of a graph: float32 | int8
    multiple: int = 32  # widths of feed-forwards are multiples of it
    warmup: float = 0.4  # share of the stage in which the target falls from 1
    rate: float = 0.1  # learning rate of the gates

    needs: ClassVar[Needs] = Needs(training=True)

    def faults(self) -> Iterator[str]:
        if not self.parts or not set(self.parts) <= set(KINDS) or len(set(self.parts)) < len(self.parts):
            yield f"parts: got {list(self.parts)}, wanted some of {', '.join(KINDS)}, each once."
        if not 0 < self.keep < 1:
            yield f"keep: got {self.keep}, wanted a share between 0 and 1."
        if self.speedup is not None:
            yield from above("speedup", self.speedup, 1)
        yield from one_of("price", self.price, ("weights", "macs", "float32", "int8"))
        yield from at_least("multiple", self.multiple, 1)
        yield from share("warmup", self.warmup)
        yield from above("rate", self.rate, 0)

    def reads(self) -> dict[str, str]:
        return of_machine(self.price)

    def begin(self, ctx: Context) -> Gating:
        model = ctx.model
        assert model is not None
        shape = shape_of(model)
        KeepHeads(0, tuple(range(shape[0][0]))).apply_to(model)  # refuses what cannot be cut
        kinds = [kind for name in self.parts for kind in KINDS[name]]
        heads, units = (sum(counts) for counts in zip(*shape, strict=True))
        if not ((heads and {"heads", "attention"} & set(kinds)) or (units and {"units", "feed_forward"} & set(kinds))):
            raise NoEffect(
                f"prune.gates: parts {list(self.parts)} finds nothing to gate: none are left. Name others, or drop it."
            )
        costs = weights(model) if self.price == "weights" else ctx.sight.meter(self.price).costs(model)
        keep = 1 / self.speedup if self.speedup else self.keep
        state = Gating(model, kinds, costs, keep, self.multiple, self.warmup, self.rate, ctx.seed)
        if (least := state.least()) > keep:
            raise InputError(
                f"prune.gates: {self._asked(keep)} of the price leaves a block with nothing: with all gates shut on "
                f"{', '.join(self.parts)} and {self.multiple} units in a block without heads, {least:.2f} of it "
                "stands. Write a larger share, a lower multiple, more parts, or drop blocks first with prune.layers."
            )
        state.attach()
        ctx.shut = state.shut
        return state

    def loss(self, state: Gating, tape: Tape) -> dict[str, Tensor]:
        return {"price": tape.mean(state.penalty().expand(len(tape.mask)))}

    def step(self, state: Gating, t: float) -> None:
        state.step(t)

    def settled(self, t: float) -> bool:
        return t >= 1

    def end(self, state: Gating, ctx: Context) -> None:
        assert ctx.model is not None
        state.detach()
        cut, on_average = state.decide(), float(state.share().detach())
        for block, (heads, units) in enumerate(zip(cut.factors["heads"], cut.factors["units"], strict=True)):
            fold(ctx.model, block, heads.tolist(), units.tolist())
            for kind, kept in ((KeepHeads, cut.kept["heads"][block]), (KeepWidth, cut.kept["units"][block])):
                if not kept.all():
                    ctx.edit(kind(block, tuple(kept.nonzero()[:, 0].tolist())))
        after = shape_of(ctx.model)
        share = state.costs.predict(after) / state.whole
        ctx.found["prune.gates"] = {
            "told": f"{left(state.shape, after)}, for {share:.2f} of the price in {state.costs.unit}; on average the "
            f"gates stood at {on_average:.2f} of it, and they were shifted by {cut.shift:+.2f}.",
            "before": [list(each) for each in state.shape],
            "after": [list(each) for each in after],
            "unit": state.costs.unit,
            "share": share,
            "on_average": on_average,
            "shift": cut.shift,
        }

    def _asked(self, keep: float) -> str:
        return f"speedup {self.speedup}, {keep:.2f}" if self.speedup else f"keep {self.keep}"
