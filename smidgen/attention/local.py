"""Local attention: a token sees those at most `window` tokens away; the first sees all and is seen by all.

Longformer (Beltagy et al. 2020, arXiv:2004.05150), whose pooled token is global too. The text is cut in pieces of
`window` tokens; the queries of a piece meet the keys of three, so work and memory grow with L * window.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smidgen.anatomy import Block
from smidgen.attention._parts import SelfAttention, fill, take_over, windows

SETTINGS = ("window",)


class Local(nn.Module):
    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window

    def forward(self, query: Tensor, key: Tensor, value: Tensor, real: Tensor, dropout: float = 0.0) -> Tensor:
        return local(query, key, value, real, self.window, dropout)


def swap(block: Block, window: int) -> None:
    take_over(block, SelfAttention(block, Local(window)))


def local(query: Tensor, key: Tensor, value: Tensor, real: Tensor, window: int, dropout: float = 0.0) -> Tensor:
    """Softmax attention over the pairs with |i - j| <= window, i = 0 or j = 0.

    query, key, value   (B, heads, L, D)
    real                (B, L) bool; other keys are not seen
    """
    (length, size), device = query.shape[2:], query.device
    place, count = torch.arange(length, device=device), length - 1
    own = windows(length, window, window, device)
    near = windows(length, window, 3 * window, device) - window
    there = (near > 0) & (near <= count)  # the first token is beside them, not among them
    near = near.clamp(0, count)
    query = query * size**-0.5

    cut = taken(query, own.clamp(max=count))
    keys, values = (taken(x, F.pad(near, (1, 0))) for x in (key, value))
    steps = torch.arange(3 * window, device=device)
    band = (steps[:window, None] + window - steps).abs() <= window
    seen = (real[:, near] & there)[:, :, None, :] & band
    unseen = F.pad(fill(torch.zeros_like(seen, dtype=query.dtype), seen), (1, 0))  # the same for all heads and blocks
    probs = (cut @ keys.transpose(-1, -2) + unseen[:, None]).softmax(-1)
    mixed = F.dropout(probs, dropout, training=dropout > 0) @ values
    mixed = mixed.flatten(2, 3)[:, :, place]

    whole = fill(query[:, :, :1] @ key.transpose(-1, -2), real[:, None, None, :]).softmax(-1)
    head = F.dropout(whole, dropout, training=dropout > 0) @ value
    return torch.where(place[:, None] == 0, head, mixed)


def taken(x: Tensor, places: Tensor) -> Tensor:
    """Of (B, heads, L, D) the vectors at places: (B, heads, *places.shape, D)."""
    batch, heads, length = x.shape[:3]
    rows = torch.arange(batch * heads, device=x.device).view(batch, heads, 1, 1) * length
    return x.flatten(0, 2)[rows + places]
