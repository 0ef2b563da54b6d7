"""Set weights of the frozen blocks to zero, by masks that train, and tune nothing else but the head.

Idea       W' = W * M for the six matrices of a block, with a score S a weight behind M, and dL/dS = dL/dW' * W, as if
           M(S) were S. `threshold`: M = [S > 0.01], S drawn evenly from -0.02 to u, with u such that the share `zeros`
           of M is 0 at the start (Zhao et al. 2020, arXiv:2004.12406). `bernoulli`: each step draws M = 1 with the
           chance sigmoid(S), S = log(1 / zeros - 1) at the start; what is judged and kept is the likelier value,
           M = [S > 0] (as in Radiya-Dixit and Wang 2020, arXiv:2004.14129). Biases, norms and embeddings stay.
Takes      A float model of a family with an anatomy, and another method with a loss in the same stage: tune.full for
           labels, or any distil.*.
Leaves     The same model with zeros in its matrices, as large and as fast; and a delta: a bit a weight of these blocks,
           10.6 MB for all twelve of a BERT-base, and the head. Few zeros pack well: `found` has the entropy.
Beside     tune.full, distil.*.
Fails      It saves storage alone: scores are as many as the weights, and the optimiser keeps two more of each. A score
           moves by the learning rate a step, and one that is far from the border needs many. Tasks cannot share a batch
           with their masks: they are run one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor, nn

from smidgen import grafting
from smidgen.grafts import build
from smidgen.grafts._weights import Reweighted
from smidgen.method import Context, Method, Needs, Part, above, one_of
from smidgen.sparsity import masked

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BORDER, BELOW = 1e-2, 2e-2  # tau and s of the paper's code: M = [S > tau], S from -s


class Scores(Reweighted):
    """What trains in the place of a graft of bits, and writes it in the end. `stands`: how many steps are done."""

    defaults = {"first": 0, "sample": "threshold", "zeros": 0.05, "learning_rate": 1e-3, "seed": 0}
    stands: Tensor

    def grow(self, model: PreTrainedModel) -> None:
        self.bits: Any = build(model, "mask", {"first": self.settings["first"]})
        self.register_buffer("stands", torch.zeros((), dtype=torch.long))
        self.border = BORDER if self.settings["sample"] == "threshold" else 0.0
        own = {name: linear.weight for name, (linear, _) in self.places(model).items()}
        self.scores = nn.ParameterDict({name: nn.Parameter(self._start(weight)) for name, weight in own.items()})

    def places(self, model: PreTrainedModel) -> Any:
        return self.bits.places(model)

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.parameters()), "lr": self.settings["learning_rate"], "weight_decay": 0.0}]

    def other(self, name: str, own: Tensor, training: bool = False) -> Tensor:
        return masked(own, self.scores[name], self.kept(name, training))

    def kept(self, name: str, training: bool = False) -> Tensor:
        """M of a matrix, False where it is zero."""
        score = self.scores[name].detach()
        if not training or self.settings["sample"] == "threshold":
            return score > self.border
        words = [self.settings["seed"], int(self.stands), list(self.scores).index(name)]
        draw = torch.Generator(score.device).manual_seed(int(np.random.SeedSequence(words).generate_state(1)[0]))
        return torch.rand(score.shape, generator=draw, device=score.device) < score.sigmoid()

    @torch.no_grad()
    def close(self) -> None:
        """Write the bits."""
        for name in self.scores:
            self.bits.shut(name, ~self.kept(name))

    def _start(self, weight: Tensor) -> Tensor:
        zeros = self.settings["zeros"]
        if self.settings["sample"] == "threshold":
            return torch.empty_like(weight).uniform_(-BELOW, (BELOW + BORDER) / zeros - BELOW)
        return torch.full_like(weight, math.log(1 / zeros - 1))


@final
@dataclass(frozen=True)
class Mask(Method[Scores]):
    blocks: int | str = "all"  # whose matrices have masks: the last so many, or all; in the paper all but two
    sample: str = "threshold"  # how a score becomes 0 or 1: threshold | bernoulli
    zeros: float = 0.05  # share of the weights that is zero at the start
    learning_rate: float = 1e-3  # of the scores, from the first step to the last; bernoulli wants ten times that

    needs: ClassVar[Needs] = Needs(training=True)

    def faults(self) -> Iterator[str]:
        if self.blocks != "all" and (isinstance(self.blocks, str) or self.blocks < 1):
            yield f"blocks: got {self.blocks!r}, wanted a number from 1, or all."
        yield from one_of("sample", self.sample, ("threshold", "bernoulli"))
        if not 0 < self.zeros < 1:
            yield f"zeros: got {self.zeros}, wanted a share above 0 and below 1."
        yield from above("learning_rate", self.learning_rate, 0)

    def frozen(self, blocks: int) -> tuple[int, ...]:
        """Blocks below the lowest matrix that changes give the same in every step."""
        return (blocks - self.blocks,) if isinstance(self.blocks, int) and 0 < self.blocks < blocks else ()

    def begin(self, ctx: Context) -> Scores:
        assert ctx.model is not None
        grafting.freeze(ctx)
        first = grafting.first_of(ctx.model, self.blocks, "tune.mask")
        how = {"sample": self.sample, "zeros": self.zeros, "learning_rate": self.learning_rate, "seed": ctx.seed}
        state = Scores({"first": first, **how})
        state.grow(ctx.model)
        state.attach(ctx.model)
        return state

    def step(self, state: Scores, t: float) -> None:
        state.stands.add_(1)

    def end(self, state: Scores, ctx: Context) -> None:
        state.detach()
        state.close()
        grafting.end(state.bits, ctx)

    def adds(self, state: Scores, ctx: Context) -> Iterable[Part]:
        yield grafting.part(state.bits)

    def found(self, state: Scores, ctx: Context, folder: Path) -> Mapping[str, Any]:
        each = [(int((~state.kept(name)).sum()), score.numel()) for name, score in state.scores.items()]
        zeros, weights = (sum(counts) for counts in zip(*each, strict=True))
        packed = sum(n * entropy(zero / n) for zero, n in each) / 8
        told = (
            f"the masks set {100 * zeros / weights:.1f} % of {weights:,} weights to zero; at a bit a weight they are "
            f"{weights / 8e6:.2f} MB, and packed by their entropy at best {packed / 1e6:.2f} MB."
        )
        return {"zeros": zeros, "weights": weights, "share": zeros / weights, "entropy_bytes": packed, "told": told}


def entropy(share: float) -> float:
    """Bits a flag of which this share is 1: -p log2 p - (1 - p) log2 (1 - p)."""
    return -sum(p * math.log2(p) for p in (share, 1 - share) if p)
