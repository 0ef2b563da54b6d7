"""Set those weights of the blocks to zero that training moves towards zero.

Idea       Each weight has a score S that trains with it: W' = W * M(S), and dL/dS = dL/dW' * W, as if M(S) were S. So S
           grows where a step takes W away from 0. `topk`: M keeps the highest scores, the share s (1 - (1 - p)^3) is
           zero, p from 0 to 1 between `start` and `until`. `soft`: M = [sigmoid(S) > tau], with
           lambda * mean sigmoid(S) added to the loss, tau and lambda rising in the same way (Sanh et al. 2020,
           arXiv:2005.07683).
Takes      A float model of a family with an anatomy, and another method with a loss in the same stage.
Leaves     The same model, as large and as fast, with zeros in the matrices of its blocks. For study: zeros are stored
           and multiplied like other weights. The share that is zero is counted in the saved file. The weights kept are
           the best on dev from `until` on.
Beside     tune.full and every distil.*, which help most where few weights are left.
Fails      Training after this stage fills the zeros again. Scores start at 0 and need hundreds of steps to part. With
           `soft` lambda decides how many weights are zero in the end. Where few are, prune.magnitude is as good.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from smidgen.errors import NoEffect
from smidgen.method import Context, Method, Needs, above, one_of
from smidgen.sparsity import (
    REMARK,
    SCOPES,
    Masks,
    cubic,
    highest,
    linears,
    masked,
    schedule_faults,
    share_faults,
    zeros,
)
from smidgen.tape import Tape


class Scores(Masks):
    """Masks whose weights have scores, which train at a rate of their own; `attach` it, `detach` it at the end."""

    def __init__(self, targets: list[nn.Linear], learning_rate: float) -> None:
        super().__init__(targets)
        self.learning_rate = learning_rate
        self.scores = nn.ParameterList(torch.zeros_like(linear.weight) for linear in targets)
        self.handles: list[torch.utils.hooks.RemovableHandle] = []

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.parameters()), "lr": self.learning_rate, "weight_decay": 0.0}]

    def attach(self) -> None:
        """From here on each Linear reads its weight masked; its own weight stays whole, so that it can come back."""
        for i, linear in enumerate(self.targets):

            def mask(module: nn.Module, args: Any, i: int = i) -> None:
                vars(module)["weight"] = masked(self.weights[i], self.scores[i], self.masks[i])

            def unmask(module: nn.Module, args: Any, output: Any) -> None:
                vars(module).pop("weight", None)

            self.handles.append(linear.register_forward_pre_hook(mask))
            self.handles.append(linear.register_forward_hook(unmask, always_call=True))

    def detach(self) -> None:
        for handle in self.handles:
            handle.remove()


@final
@dataclass(frozen=True)
class Movement(Method[Scores]):
    kind: str = "topk"  # topk = the lowest scores are zero, as many as `share` says | soft = those below `threshold`
    share: float = 0.9  # s of topk: of the weights of the blocks' matrices, that are zero in the end
    scope: str = "global"  # of topk: global = the lowest of all matrices together | matrix = the same share of each
    threshold: float = 0.1  # tau of soft; scores start at sigmoid(0) = 0.5
    penalty: float = 400.0  # lambda of soft: the larger, the more zeros
    learning_rate: float = 1e-2  # of the scores, from the first step to the last
    start: float = 0.1  # share of the stage at which the first weights become zero
    until: float = 0.7  # share of the stage at which as many are zero as shall be; the others go on training

    needs: ClassVar[Needs] = Needs(training=True)
    remark: ClassVar[str] = REMARK

    def reshapes(self) -> bool:
        return True

    def faults(self) -> Iterator[str]:
        yield from one_of("kind", self.kind, ("topk", "soft"))
        yield from share_faults(self.share)
        yield from one_of("scope", self.scope, SCOPES)
        if not 0 < self.threshold < 1:
            yield f"threshold: got {self.threshold}, wanted a share between 0 and 1."
        yield from above("penalty", self.penalty, 0)
        yield from above("learning_rate", self.learning_rate, 0)
        yield from schedule_faults(self.start, self.until)

    def settled(self, t: float) -> bool:
        return t >= self.until

    def begin(self, ctx: Context) -> Scores:
        assert ctx.model is not None
        targets = linears(ctx.model)
        if self.kind == "topk" and self.share == 0:
            raise NoEffect("prune.movement: share 0 sets no weight to zero. Write a share above 0, or drop it.")
        state = Scores(targets, self.learning_rate)
        state.attach()
        return state

    def loss(self, state: Scores, tape: Tape) -> dict[str, Tensor]:
        if self.kind == "topk":
            return {}
        value = self.penalty * float(state.risen) * torch.stack([s.sigmoid().mean() for s in state.scores]).mean()
        return {"scores": tape.mean(value.expand(len(tape.mask)))}

    @torch.no_grad()
    def step(self, state: Scores, t: float) -> None:
        risen = cubic(t, self.start, self.until)
        if self.kind == "topk":
            state.put(highest(list(state.scores), self.share * risen, self.scope))
        else:
            state.put([score.sigmoid() > self.threshold * risen for score in state.scores])
        state.risen.fill_(risen)

    def end(self, state: Scores, ctx: Context) -> None:
        state.detach()
        state.close()

    def found(self, state: Scores, ctx: Context, folder: Path) -> dict[str, Any]:
        assert ctx.model is not None
        return zeros(ctx.model, folder).to_data()
