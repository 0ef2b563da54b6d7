"""Local attention: a token sees those at most `window` tokens away; the first sees all and is seen by all.

Longformer (Beltagy et al. 2020, arXiv:2004.05150), whose pooled token is global too. The text is cut in pieces of
`window` tokens; the queries of a piece meet the keys of three, so work and memory grow with L * window.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smidgen.anatomy import Block
from smidgen.attention._parts import SelfAttention, fill, put

SETTINGS = ("window",)


class Local(nn.Module):
    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window

    def forward(self, query: Tensor, key: Tensor, value: Tensor, real: Tensor, dropout: float = 0.0) -> Tensor:
        return local(query, key, value, real, self.window, dropout)


def swap(block: Block, window: int) -> None:
    put(block, block.attention, SelfAttention(block, Local(window)))


def local(query: Tensor, key: Tensor, value: Tensor, real: Tensor, window: int, dropout: float = 0.0) -> Tensor:
    """Softmax attention over the pairs with |i - j| <= window, i = 0 or j = 0.

    query, key, value   (B, heads, L, D)
    real                (B, L) bool; other keys are not seen
    """
    length, size = query.shape[2:]
    pieces = (length + window - 1) // window
    after = pieces * window - length
    query = query * size**-0.5

    cut = F.pad(query, (0, 0, 0, after)).unflatten(2, (pieces, window))
    keys, values = (_around(x, window, pieces, after) for x in (key, value))
    near = torch.cat((torch.zeros_like(real[:, :1]), real[:, 1:]), 1)  # the first token is beside them, not among them
    near = _around(near[:, None, :, None].to(query.dtype), window, pieces, after)[:, :, :, None, :, 0] > 0
    place = torch.arange(window, device=query.device)[:, None] - torch.arange(-window, 2 * window, device=query.device)
    scores = fill(cut @ keys.transpose(-1, -2), near & (place.abs() <= window))
    first = cut @ key[:, :, None, :1].transpose(-1, -2)
    probs = F.dropout(torch.cat((first, scores), -1).softmax(-1), dropout, training=dropout > 0)
    mixed = probs[..., :1] * value[:, :, None, :1] + probs[..., 1:] @ values
    mixed = mixed.flatten(2, 3)[:, :, :length]

    whole = fill(query[:, :, :1] @ key.transpose(-1, -2), real[:, None, None, :]).softmax(-1)
    head = F.dropout(whole, dropout, training=dropout > 0) @ value
    return torch.cat((head, mixed[:, :, 1:]), 2)


def _around(x: Tensor, window: int, pieces: int, after: int) -> Tensor:
    """(B, heads, L, D) to (B, heads, pieces, 3 * window, D): each piece between its neighbours, zeros past the ends."""
    x = F.pad(x, (0, 0, window, after + window)).unflatten(2, (pieces + 2, window))
    return torch.cat((x[:, :, :-2], x[:, :, 1:-1], x[:, :, 2:]), 3)
