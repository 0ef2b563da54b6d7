"""Learn which heads, inner units and sublayers to cut, by gates that train with the model to a price.

Idea       Each part has a hard-concrete gate z, drawn anew in each step, with a chance P(z != 0) that is learnt
           (Louizos, Welling, Kingma 2018, arXiv:1712.01312), on heads, inner units of feed-forwards and the hidden
           size (McCarley, Chakravarti, Sil 2019, arXiv:1910.06360) and on sublayers (CoFi, Xia, Zhong, Chen 2022,
           arXiv:2204.00408). With the share s of the price that stands on average, from the products of the chances of
           what is nested, and a target t that falls linearly from 1, the stage's losses get l1 (s - t) + l2 (s - t)^2.
           The multipliers climb, l2 from 30, without which s swings about t. In the end each sublayer, and the hidden
           size, keeps as many parts as are open on average, the most open ones, all gates shifted alike until the
           price is met, and what is left of z goes into the weights. One head stays, as without any each text gets the
           same answer. A table of milliseconds adds up sublayers, and a model is not quite their sum: so a model that
           has lost as much of everything is measured first, and what would be cut once the target has fallen; each
           time the target is set to the share by the table under which such a model would cost what was asked.
Takes      A float model of a family with an anatomy, trained for its task, and another method with a loss. `hidden`
           among the parts: one gate a dimension for all blocks; norms take mean and variance over what is open. Cut
           before anything is factored or attached. For milliseconds, graphs of half the hidden size are timed too.
Leaves     A float model with fewer heads and units, not as many in each block, and a smaller hidden size where that has
           gates; heads keep their size. `found` in its record has the shape, the share of the price, of milliseconds
           also those that were measured in the end, and the shift: far from 0, the gates had not reached the target,
           and more epochs help. What is measured in the end may be some hundredths off: shapes differ.
Beside     tune.full, as McCarley; distil.logits and distil.hidden with mapping: dynamic, as CoFi. Train the cut model
           by distil.* in the stage after it; with another hidden size than the teacher's, distil.hidden learns a
           projection. Dev is scored on what would be cut at that moment, down to the target; the last weights are kept.
Fails      Within a hundred steps: gates take about 5 / rate of them to shut. A dimension of the hidden size goes from
           all blocks at once: ask for it where heads and units alone would leave too few. Near the least that the price
           allows a single head is left, which is not much: see how many are left in what it says.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from torch import Tensor, nn

from smidgen import clock
from smidgen.anatomy import anatomy
from smidgen.batch import agreed
from smidgen.clock import PRECISIONS, of_machine, shaped
from smidgen.edits.keep_heads import KeepHeads
from smidgen.edits.keep_hidden import KeepHidden
from smidgen.edits.keep_width import KeepWidth
from smidgen.errors import InputError, NoEffect
from smidgen.gating import FAR, Gating
from smidgen.method import Context, Method, Needs, above, at_least, name_of, one_of, share
from smidgen.prices import Shape, amount, held_against, left, shape_of, weights
from smidgen.surgery import apply, cuttable, fold, fold_hidden
from smidgen.tape import Tape

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KINDS = {
    "heads": ("heads",),
    "units": ("units",),
    "sublayers": ("attention", "feed_forward"),
    "hidden": ("hidden",),
}
STANDING = {"tune.bitfit", "tune.prefix"}  # methods whose tensors are as long as what is cut


@final
@dataclass(frozen=True)
class Gates(Method[Gating]):
    parts: tuple[str, ...] = ("heads", "units")  # what has gates: heads, units, sublayers, hidden
    keep: float = 0.5  # share of the price that stays
    speedup: float | None = None  # instead of keep: how many times less it is to cost
    milliseconds: float | None = None  # instead of keep: what a text is to take, at price float32 or int8
    price: str = "macs"  # weights, or macs, or the milliseconds of a graph: float32 | int8
    multiple: int = 32  # widths of feed-forwards, and the hidden size where it has gates, are multiples of it
    warmup: float = 0.4  # share of the stage in which the target falls from 1
    rate: float = 0.1  # learning rate of the gates

    version: ClassVar[int] = 7
    needs: ClassVar[Needs] = Needs(training=True)

    def reshapes(self) -> bool:
        return True

    def faults(self) -> Iterator[str]:
        if not self.parts or not set(self.parts) <= set(KINDS) or len(set(self.parts)) < len(self.parts):
            yield f"parts: got {list(self.parts)}, wanted some of {', '.join(KINDS)}, each once."
        if not 0 < self.keep < 1:
            yield f"keep: got {self.keep}, wanted a share between 0 and 1."
        if self.speedup is not None:
            yield from above("speedup", self.speedup, 1)
        yield from one_of("price", self.price, ("weights", "macs", "float32", "int8"))
        yield from clock.faults(self.milliseconds, self.price)
        yield from at_least("multiple", self.multiple, 1)
        yield from share("warmup", self.warmup)
        yield from above("rate", self.rate, 0)

    def reads(self) -> dict[str, str]:
        return of_machine(self.price)

    def clashes(self, others: Sequence[Method[Any]]) -> Iterator[str]:
        for name in sorted({name_of(other) for other in others} & STANDING):
            yield f"what {name} trains stands on heads and units, of which some go at the end. Give it a stage after."

    def begin(self, ctx: Context) -> Gating:
        model = ctx.model
        assert model is not None
        shape = shape_of(model)
        cuttable(model, *({part, "sublayers"} & set(self.parts) for part in ("heads", "units")))
        kinds, hidden = [kind for name in self.parts for kind in KINDS[name]], anatomy(model).hidden_size
        if "hidden" in kinds:
            KeepHidden(tuple(range(hidden))).apply_to(model)  # likewise
        heads, units = (sum(counts) for counts in zip(*shape, strict=True))
        there = {"heads": heads, "attention": heads, "units": units, "feed_forward": units, "hidden": hidden}
        if not any(there[kind] for kind in kinds):
            raise NoEffect(
                f"prune.gates: parts {list(self.parts)} finds nothing to gate: none are left. Name others, or drop it."
            )
        costs = weights if self.price == "weights" else ctx.sight.meter(self.price).costs
        whole, half = costs(model), costs(model, hidden // 2) if "hidden" in kinds else None
        keep = self._share(ctx, model)
        state = Gating(model, kinds, whole, keep, self.multiple, self.warmup, self.rate, ctx.seed, half)
        power = 1.0
        if self.price in PRECISIONS:
            bare = nn.Module.to(copy.deepcopy(model), "cpu")  # before another method hangs something on it
            state.measured = functools.partial(self._measured, ctx, bare)
            power = state.aim(keep)
        self._room(state, keep, power)
        state.attach()
        ctx.shut = state.shut
        return state

    def loss(self, state: Gating, tape: Tape) -> dict[str, Tensor]:
        return {"price": tape.mean(state.penalty().expand(len(tape.mask)))}

    def step(self, state: Gating, t: float) -> None:
        falls = float(state.stands[1]) < self.warmup
        state.step(t)
        if state.measured is not None and falls and t >= self.warmup:
            state.aim(state.asked)
            state.keep.clamp_(min=state.least())

    def settled(self, t: float) -> bool:
        return t >= 1

    def end(self, state: Gating, ctx: Context) -> None:
        assert ctx.model is not None
        state.detach()
        cut, on_average = state.decide(), float(state.share().detach())
        uncut = copy.deepcopy(ctx.model) if self.price in PRECISIONS else None
        for factors, kept in zip(cut.factors.get("hidden", ()), cut.kept.get("hidden", ()), strict=True):
            fold_hidden(ctx.model, factors.tolist())
            if not kept.all():
                ctx.edit(KeepHidden(tuple(kept.nonzero()[:, 0].tolist())))
        for block, (heads, units) in enumerate(zip(cut.factors["heads"], cut.factors["units"], strict=True)):
            fold(ctx.model, block, heads.tolist(), units.tolist())
            for kind, kept in ((KeepHeads, cut.kept["heads"][block]), (KeepWidth, cut.kept["units"][block])):
                if not kept.all():
                    ctx.edit(kind(block, tuple(kept.nonzero()[:, 0].tolist())))
        after, hidden = shape_of(ctx.model), anatomy(ctx.model).hidden_size
        price = state.price(after, hidden)
        share = price / state.whole
        narrow = f", and {hidden} of the hidden size of {state.hidden}" if "hidden" in cut.kept else ""
        ctx.found["prune.gates"] = {
            "told": f"{left(state.shape, after)}{narrow}, for {share:.2f} of the price in {state.costs.unit}; on "
            f"average the gates stood at {on_average:.2f} of it, and they were shifted by {cut.shift:+.2f}.",
            "before": [list(each) for each in state.shape],
            "after": [list(each) for each in after],
            "hidden": [state.hidden, hidden],
            "unit": state.costs.unit,
            "costs": state.costs.to_data(),
            "share": share,
            "on_average": on_average,
            "shift": cut.shift,
        }
        if uncut is not None:
            self._hold_against(ctx, share, uncut)

    def _share(self, ctx: Context, model: PreTrainedModel) -> float:
        """What may stay of the price."""
        if self.milliseconds:
            return 1 / clock.speedup("prune.gates", ctx.sight.meter(self.price), model, self.milliseconds)
        return 1 / self.speedup if self.speedup else self.keep

    def _room(self, state: Gating, keep: float, power: float) -> None:
        """Refuse a share of the price that no cut leaves; power: see `Gating.aim`."""
        if (least := state.least()) > float(state.keep):
            narrow = f" and a hidden size of {state.hidden_at(-FAR)}" if state.narrow else ""
            but = {"heads": " but for one head", "sublayers": " but for one block's heads"}
            stays = next((words for part, words in but.items() if part in self.parts), "")
            whole = self.milliseconds / keep if self.milliseconds else state.whole
            raise InputError(
                f"prune.gates: {self._asked(keep)} of the price leaves a block with nothing: with all gates on "
                f"{', '.join(self.parts)} shut{stays}, {self.multiple} units in a block without heads{narrow}, "
                f"{least**power:.2f} of it stands, {amount(least**power * whole, state.costs.unit)}. Write "
                f"{self._more(least**power, keep)}, a lower multiple, more parts, or drop blocks first with "
                "prune.layers."
            )

    def _measured(self, ctx: Context, bare: PreTrainedModel, shape: Shape, hidden: int) -> float:
        """What share a model of a shape is measured to take of what the one it is cut from takes."""
        with torch.random.fork_rng(devices=[]):  # what is measured changes nothing that is drawn
            after = shaped(bare, shape)
            if hidden < anatomy(bare).hidden_size:
                apply(after, KeepHidden(tuple(range(hidden))))
            found = ctx.sight.meter(self.price).measure({"before": bare, "after": after})
        return float(agreed(torch.tensor(found["after"] / found["before"])))

    def _hold_against(self, ctx: Context, share: float, uncut: PreTrainedModel) -> None:
        """What the cut model takes, beside what the table foretold."""
        assert ctx.model is not None
        both = {"before": uncut, "after": copy.deepcopy(ctx.model)}
        meter, found = ctx.sight.meter(self.price), ctx.found["prune.gates"]
        measured = meter.measure({name: nn.Module.to(each, "cpu") for name, each in both.items()})
        words, numbers = held_against(meter.unit, share, measured)
        found |= numbers | {"told": f"{found['told']} Measured {words}."}

    def _more(self, least: float, keep: float) -> str:
        """What could be asked instead."""
        if self.milliseconds or self.speedup:
            return clock.reachable(1 / least, 1 / keep, self.milliseconds)
        return f"a share of {least + 0.005:.2f} or more"

    def _asked(self, keep: float) -> str:
        if self.milliseconds:
            return f"milliseconds {self.milliseconds}, {keep:.2f}"
        return f"speedup {self.speedup}, {keep:.2f}" if self.speedup else f"keep {self.keep}"
