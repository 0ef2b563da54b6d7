"""Distances that several methods use, one value a token or an example."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

HIDDEN = torch.finfo(torch.float32).min  # the score of a key that cannot be seen; see smidgen.tape


def mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference over the width: (B, L, H), (B, L, H) -> (B, L)."""
    return (student - teacher).square().mean(-1)


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """One minus the cosine: (B, L, H), (B, L, H) -> (B, L)."""
    return 1 - F.cosine_similarity(student, teacher, dim=-1)


def soft_targets(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(teacher || student) at temperature T, summed over the last axis: (..., C), (..., C) -> (...)."""
    log_p, log_q = F.log_softmax(teacher / temperature, -1), F.log_softmax(student / temperature, -1)
    return F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1) * temperature**2


def row_kl(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """KL(teacher || student) of each query's softmax over the keys that both see, a mean over heads, in float32.

    Two (B, heads, L, L) before the softmax, mask (B, L), nonzero at real tokens -> (B, L).
    """
    hidden = ~visible(student, teacher, mask)
    log_q, log_p = (F.log_softmax(x.float().masked_fill(hidden, HIDDEN), -1) for x in (student, teacher))
    return F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1).mean(1)


def visible(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """(B, heads, L, L) bool: real keys that neither model hides, as out of its window."""
    return mask.bool()[:, None, None, :] & (student > HIDDEN) & (teacher > HIDDEN)
