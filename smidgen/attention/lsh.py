"""Attention by locality-sensitive hashing: a token sees those whose vectors point about where its own does.

Reformer (Kitaev et al. 2020, arXiv:2001.04451): query and key are one, k_j = q_j / |q_j|; h(x) = argmax([xR; -xR]) for
random directions R puts each token in a bucket; tokens are sorted by bucket, within it by place, and cut in chunks. A
token sees those of its bucket in its chunk and the one before, itself only where there is no other. Several rounds with
other R are weighed by the mass that each found. Work and memory grow with L * rounds * chunk.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smidgen.anatomy import Block
from smidgen.attention._parts import SelfAttention, fill, put
from smidgen.errors import InputError

SETTINGS = ("buckets", "rounds", "chunk")
ITSELF = -1e5  # the score of a token with itself: far below every other, far above what is not seen


class Hashed(nn.Module):
    """The directions are drawn once and kept with the weights, so that the same text always gets the same answer."""

    def __init__(self, size: int, buckets: int, rounds: int, chunk: int) -> None:
        super().__init__()
        self.chunk = chunk
        drawn = torch.randn(rounds, size, buckets // 2, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
        self.register_buffer("directions", drawn)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, real: Tensor, dropout: float = 0.0) -> Tensor:
        return hashed(query, value, real, self.directions, self.chunk, dropout)


def swap(block: Block, buckets: int, rounds: int, chunk: int) -> None:
    if buckets > 1 and buckets % 2:
        raise InputError(f"lsh got buckets {buckets}, wanted 1 or an even number: they come in opposites.")
    mix = Hashed(block.head_size, buckets, rounds, chunk).to(block.query.weight)
    put(block, block.attention, SelfAttention(block, mix, shared=True))


def hashed(shared: Tensor, value: Tensor, real: Tensor, directions: Tensor, chunk: int, dropout: float = 0.0) -> Tensor:
    """Attention within buckets.

    shared, value   (B, heads, L, D), query and key in one
    real            (B, L) bool; other keys are not seen
    directions      (rounds, D, buckets / 2); none of them: one bucket
    """
    length, size = shared.shape[2:]
    bucket = buckets_of(shared, real, directions)
    place = torch.arange(length, device=shared.device)
    order = (bucket * length + place).argsort(-1)  # (B, heads, rounds, L), real tokens before padding
    back = order.argsort(-1)
    chunks = (length + chunk - 1) // chunk
    after = chunks * chunk - length

    def cut(x: Tensor, fill: float) -> Tensor:
        return F.pad(x, (0, 0, 0, after), value=fill).unflatten(3, (chunks, chunk))

    def with_before(x: Tensor, fill: float) -> Tensor:
        """Each chunk behind the one before it; the first behind nothing."""
        return torch.cat((F.pad(x, (0, 0, 0, 0, 1, 0), value=fill)[:, :, :, :-1], x), 4)

    def sort(x: Tensor) -> Tensor:
        """(B, heads, L, D) in the order of each round."""
        wide = x[:, :, None].expand(-1, -1, order.shape[2], -1, -1)
        return wide.gather(3, order[..., None].expand(-1, -1, -1, -1, x.shape[-1]))

    query, values = cut(sort(shared), 0.0), with_before(cut(sort(value), 0.0), 0.0)
    keys = F.normalize(with_before(query, 0.0), dim=-1)
    of_query, at_query = cut(bucket.gather(3, order)[..., None], -1), cut(order[..., None], -1)
    of_key, at_key = (with_before(x, -2).transpose(-1, -2) for x in (of_query, at_query))
    hidden = of_key > max(2 * directions.shape[2] - 1, 0)  # padding has the bucket behind the last
    scores = (query @ keys.transpose(-1, -2)).masked_fill(at_query == at_key, ITSELF)
    scores = fill(scores, (of_query == of_key) & ~hidden)
    mass = scores.logsumexp(-1, keepdim=True)
    probs = F.dropout((scores - mass).exp(), dropout, training=dropout > 0)
    mixed = (probs @ values).flatten(3, 4)[:, :, :, :length]
    mass = mass.flatten(3, 4)[:, :, :, :length]
    mixed = mixed.gather(3, back[..., None].expand(-1, -1, -1, -1, size))
    return (mass.gather(3, back[..., None]).softmax(2) * mixed).sum(2)


def buckets_of(shared: Tensor, real: Tensor, directions: Tensor) -> Tensor:
    """(B, heads, rounds, L) int64: the bucket of each token in each round; padding gets the one behind the last."""
    turned = torch.einsum("bhld,rdk->bhrlk", shared, directions)
    count = 2 * directions.shape[2]
    if not count:
        found = torch.zeros(turned.shape[:-1], dtype=torch.long, device=shared.device)
    else:
        found = torch.cat((turned, -turned), -1).argmax(-1)
    return found.masked_fill(~real[:, None, None, :], max(count, 1))
