"""Train the model as if it were in int8 already, so that little is lost when it is.

Idea       In each forward w becomes s_w q_w, q_w = round(w / s_w), s_w = max |w| / 127 of each output channel, and what
           a Linear reads becomes s_x (q_x - z_x) in 256 levels of a range; backward, rounding counts as nothing, and
           what is cut off has no gradient (Jacob et al. 2018, arXiv:1712.05877; on BERT, with its embeddings, Zafrir
           et al. 2019, arXiv:1910.06188). Ranges are moving averages of the least and largest numbers of a step, or
           learn by the gradient of the rounded numbers (LSQ, Esser et al. 2020, arXiv:1902.08153).
Takes      A float model, best one that is trained for its task, and another method with a loss in the same stage.
Leaves     The same float model with other weights, and its ranges beside it, which `quant.static: {ranges: trained}`
           reads after export.onnx. Dev is scored as the int8 graph would answer.
Beside     tune.full, distil.logits and every distil.*; prune.layers before them. The ranges end with this stage:
           another training stage after it leaves none.
Fails      A step takes 1.3 to 1.5 times as long, and little is gained where quant.static already loses nothing: look
           there first. LSTMs and attention's own products are not rounded, nor is a graft beside it, as tune.lora's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

from smidgen.calibration import RANGES
from smidgen.errors import InputError, NoEffect
from smidgen.fake import Fake
from smidgen.method import Context, Method, Needs, above, one_of


@final
@dataclass(frozen=True)
class Aware(Method[Fake]):
    ranges: str = "average"  # of activations: average = moving averages of what was seen | learned
    momentum: float = 0.05  # how far the averages move in a step
    rate: float = 1e-3  # learning rate of learned ranges
    start: float = 0.1  # share of the stage in which ranges are watched and nothing is rounded
    embeddings: bool = True  # round the embedding tables too
    reduce_range: bool = False  # 7-bit weights, for processors without VNNI

    needs: ClassVar[Needs] = Needs(training=True)
    remark: ClassVar[str] = (
        "Rounding in training makes nothing faster and no file smaller: that is done by quant.static or quant.dynamic "
        "behind export.onnx."
    )

    def faults(self) -> Iterator[str]:
        yield from one_of("ranges", self.ranges, ("average", "learned"))
        if not 0 < self.momentum <= 1:
            yield f"momentum: got {self.momentum}, wanted a share above 0 and up to 1."
        yield from above("rate", self.rate, 0)
        if not 0 <= self.start < 1:
            yield f"start: got {self.start}, wanted a share of the stage from 0 and below 1."

    def settled(self, t: float) -> bool:
        return t >= self.start

    def begin(self, ctx: Context) -> Fake:
        assert ctx.model is not None
        if any(hasattr(module, "base_layer") for module in ctx.model.modules()):
            raise InputError(
                "quant.aware: tune.lora acts on the same projections. Give it a stage of its own, behind tune.lora's."
            )
        rate = self.rate if self.ranges == "learned" else None
        state = Fake(ctx.model, 63 if self.reduce_range else 127, self.embeddings, self.momentum, rate)
        if not state.linears:
            raise NoEffect("quant.aware: the model has no Linear whose weights could be rounded. Drop it.")
        state.attach()
        return state

    def step(self, state: Fake, t: float) -> None:
        state.step(t >= self.start)

    def end(self, state: Fake, ctx: Context) -> None:
        state.detach()

    def found(self, state: Fake, ctx: Context, folder: Path) -> dict[str, Any]:
        """Write the ranges into the folder."""
        ranges = state.ranges()
        (folder / RANGES).write_text(json.dumps(ranges, indent=1) + "\n", encoding="utf-8")
        return {"ranges": len(ranges), "told": f"{len(ranges)} of {len(state.linears)} Linears have ranges."}
