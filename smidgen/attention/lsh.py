"""Attention by locality-sensitive hashing: a token sees those whose vectors point about where its own does.

Reformer (Kitaev et al. 2020, arXiv:2001.04451): query and key are one, k_j = q_j / |q_j|; h(x) = argmax([xR; -xR]) for
random directions R puts each token in a bucket; tokens are sorted by bucket, within it by place, and cut in chunks. A
token sees those of its bucket in its chunk and the one before, itself only where there is no other. Several rounds with
other R are weighed by the mass that each found; a key that is met in several rounds counts in each (the paper takes
log N from its scores, N rounds that meet it). Work and memory grow with L * rounds * chunk.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smidgen.anatomy import Block
from smidgen.attention._parts import SelfAttention, fill, take_over, windows
from smidgen.errors import InputError

SETTINGS = ("buckets", "rounds", "chunk")
ITSELF = -1e5  # beside the score of a token with itself: far below every other, far above what is not seen


class Hashed(nn.Module):
    """The directions are drawn once and kept with the weights, so that the same text always gets the same answer."""

    directions: Tensor

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
    take_over(block, SelfAttention(block, mix, shared=True))


def hashed(shared: Tensor, value: Tensor, real: Tensor, directions: Tensor, chunk: int, dropout: float = 0.0) -> Tensor:
    """Attention within buckets.

    shared, value   (B, heads, L, D), query and key in one
    real            (B, L) bool; other keys are not seen
    directions      (rounds, D, buckets / 2); none of them: one bucket
    """
    (batch, heads, length, _), device = shared.shape, shared.device
    bucket = buckets_of(shared, real, directions)
    order = (bucket * length + torch.arange(length, device=device)).argsort(-1)  # real tokens come before padding
    sorted_bucket = bucket.gather(3, order)
    own, near = windows(length, chunk, chunk, device), windows(length, chunk, 2 * chunk, device) - chunk
    of_query, at_query = (x[..., own.clamp(max=length - 1)] for x in (sorted_bucket, order))  # ..., chunks, chunk
    of_key, at_key = (x[..., near.clamp(0, length - 1)] for x in (sorted_bucket, order))  # ..., chunks, 2 * chunk
    there = (near >= 0) & (near < length) & (of_key < max(2 * directions.shape[2], 1))
    rows = torch.arange(batch * heads, device=device).view(batch, heads, 1, 1, 1) * length

    query, key = shared.flatten(0, 2)[rows + at_query], F.normalize(shared, dim=-1).flatten(0, 2)[rows + at_key]
    scores = query @ key.transpose(-1, -2)
    scores = (scores.float() if scores.dtype.itemsize == 2 else scores) + itself(chunk, device)
    scores = fill(scores, of_query[..., :, None] == of_key.masked_fill(~there, -1)[..., None, :])
    probs = scores.softmax(-1)
    mass = scores.amax(-1, True) - probs.amax(-1, True).log()  # of what each round found: the log of its sum
    probs = F.dropout(probs, dropout, training=dropout > 0).to(value.dtype)
    mixed = probs @ value.flatten(0, 2)[rows + at_key]

    back, rounds = order.argsort(-1), order.shape[2]
    parts = torch.arange(batch * heads * rounds, device=device).view(batch, heads, rounds, 1) * own.numel()
    mixed = mixed.flatten(0, 4)[parts + back]
    weights = mass.flatten(3, 5).gather(3, back).softmax(2)[..., None]
    return (weights.to(mixed.dtype) * mixed).sum(2)


def itself(chunk: int, device: torch.device) -> Tensor:
    """(chunk, 2 * chunk): what is added to the scores of a chunk with the one before and itself."""
    return F.pad(torch.eye(chunk, device=device) * ITSELF, (chunk, 0))


def buckets_of(shared: Tensor, real: Tensor, directions: Tensor) -> Tensor:
    """(B, heads, rounds, L) int64: the bucket of each token in each round; padding gets the one behind the last."""
    rounds, count = len(directions), 2 * directions.shape[2]
    if count:
        turned = torch.einsum("bhld,rdk->bhrlk", shared, directions)
        found = torch.cat((turned, -turned), -1).argmax(-1)
    else:
        found = torch.zeros_like(shared[..., 0], dtype=torch.long)[:, :, None].expand(-1, -1, rounds, -1)
    return found.masked_fill(~real[:, None, None, :], max(count, 1))
