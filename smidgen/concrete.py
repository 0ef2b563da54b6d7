"""Hard-concrete gates: numbers from 0 to 1, both ends included, that are drawn, and whose chances can be learnt.

    u ~ U(0, 1),  s = sigmoid((log u - log(1 - u) + log a) / BETA),  z = min(1, max(0, s (ZETA - GAMMA) + GAMMA))

A gate has one parameter, log a. Its gradient goes through z where it is between the ends, and through the chance that
it is open wherever it is (Louizos, Welling, Kingma 2018, arXiv:1712.01312).
"""

from __future__ import annotations

import math

from torch import Tensor

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
AT_ZERO = BETA * math.log(-GAMMA / ZETA)


def draw(log_alpha: Tensor, noise: Tensor) -> Tensor:
    """z of each gate; noise: u of the same shape, between 0 and 1."""
    return _stretched((noise.logit() + log_alpha) / BETA)


def chance(log_alpha: Tensor) -> Tensor:
    """P(z != 0) of each gate."""
    return (log_alpha - AT_ZERO).sigmoid()


def settled(log_alpha: Tensor) -> Tensor:
    """z of each gate once nothing is drawn any more; exactly 0 or 1 where log a is low or high."""
    return _stretched(log_alpha)


def _stretched(logits: Tensor) -> Tensor:
    return (logits.sigmoid() * (ZETA - GAMMA) + GAMMA).clamp(0, 1)
