"""Train a new head on what a frozen model gives.

Idea       y = W pool(h) + b, and nothing else learns. `first`: the first token's state; `mean`: over the real tokens;
           `mix`: the mean of scale * sum_l softmax(w)_l h_l over all layers, w and scale learnt (Peters et al. 2018,
           arXiv:1802.05365); `last_four`: the mean of the last four layers side by side (Devlin et al. 2019,
           arXiv:1810.04805, section 5.3). What the model gives is computed once and kept on disk (`cache` of the
           stage's train): a later epoch costs the head alone.
Takes      A float model and a task of one answer a text: classify or several; another method with a loss in the stage.
Leaves     The same body to the bit under the new head; its own pooler and head are gone. Folders load where smidgen is
           imported, as uneven models do.
Beside     tune.full or distil.logits. tune.freeze with `blocks: all` keeps the model's own pooler and head instead.
Fails      Far from fine-tuning: over 16 tasks 64.2 against 75.5 with BERT-base (Pfeiffer et al. 2021,
           arXiv:2005.00247). A head learns at 1e-3 or more, not at 5e-5. The mix of layers that no norm follows, as in
           ModernBERT, is led by the largest. Cut blocks before it, not after.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from smidgen.anatomy import anatomy
from smidgen.edits.head import POOLS, Head
from smidgen.errors import InputError, NoEffect
from smidgen.method import Context, Method, Needs, one_of

TASKS = ("classify", "several")


@final
@dataclass(frozen=True)
class NewHead(Method[None]):
    pool: str = "mean"  # first | mean | mix | last_four

    needs: ClassVar[Needs] = Needs(training=True)

    def faults(self) -> Iterator[str]:
        yield from one_of("pool", self.pool, POOLS)

    def frozen(self, blocks: int) -> tuple[int, ...]:
        least = {"mix": 0, "last_four": max(blocks - 3, 0)}.get(self.pool, blocks)
        return tuple(range(least, blocks + 1))

    def begin(self, ctx: Context) -> None:
        assert ctx.model is not None
        if ctx.task.name not in TASKS:
            raise InputError(
                f"tune.head: got the task {ctx.task.name}, wanted {' or '.join(TASKS)}. Write tune.freeze: {{blocks: "
                "all}, which keeps the model's own head."
            )
        count = len(anatomy(ctx.model).blocks)
        if self.pool == "last_four" and count < 4:
            raise NoEffect(f"tune.head: last_four finds {count} blocks in this model. Write pool: mix, or mean.")
        ctx.edit(Head(self.pool))
        for parameter in anatomy(ctx.model).body.parameters():
            parameter.requires_grad = False

    def end(self, state: None, ctx: Context) -> None:
        assert ctx.model is not None
        ctx.model.requires_grad_(True)
