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
    length, size = query.shape[2:]
    place = torch.arange(length, device=query.device)
    own, near = (
        windows(length, window, window, query.device),
        windows(length, window, 3 * window, query.device) - window,
    )
    query, count = query * size**-0.5, length - 1

    cut = query[:, :, own.clamp(max=count)]  # (B, heads, pieces, window, D)
    keys, values = (x[:, :, near.clamp(0, count)] for x in (key, value))
    there = (near > 0) & (near <= count)  # the first token is beside them, not among them
    seen = (real[:, near.clamp(0, count)] & there)[:, None, :, None, :]
    band = (own[:, :, None] - near[:, None, :]).abs() <= window
    scores = fill(cut @ keys.transpose(-1, -2), seen & band)
    first = cut @ key[:, :, None, :1].transpose(-1, -2)
    probs = F.dropout(torch.cat((first, scores), -1).softmax(-1), dropout, training=dropout > 0)
    mixed = probs[..., :1] * value[:, :, None, :1] + probs[..., 1:] @ values
    mixed = mixed.flatten(2, 3)[:, :, place]

    whole = fill(query[:, :, :1] @ key.transpose(-1, -2), real[:, None, None, :]).softmax(-1)
    head = F.dropout(whole, dropout, training=dropout > 0) @ value
    return torch.where(place[:, None] == 0, head, mixed)
