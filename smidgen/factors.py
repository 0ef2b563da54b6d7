"""A matrix as the product of two thin ones, in the place of a Linear or an Embedding.

By the singular value decomposition W = U S V^T, cut after the r largest values: |W - W_r|^2 is the sum of the squares
of those that are cut off, and no product of this rank is nearer (Eckart and Young 1936, doi:10.1007/BF02288367).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FactoredLinear(nn.Module):
    """(..., in_features) -> (..., out_features) through `rank` numbers."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        weight = linear.weight
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.first = nn.Linear(self.in_features, rank, False, weight.device, weight.dtype)
        self.second = nn.Linear(rank, self.out_features, linear.bias is not None, weight.device, weight.dtype)
        with torch.no_grad():
            into, out = factors(weight, rank)
            self.first.weight.copy_(into)
            self.second.weight.copy_(out)
            if linear.bias is not None:
                self.second.bias.copy_(linear.bias)

    def forward(self, values: Tensor) -> Tensor:
        return self.second(self.first(values))

    @property
    def weight(self) -> Tensor:
        return self.second.weight @ self.first.weight

    @property
    def bias(self) -> Tensor | None:
        return self.second.bias


class FactoredEmbedding(nn.Module):
    """Token ids to vectors: a narrow table, then a matrix."""

    def __init__(self, table: nn.Embedding, rank: int) -> None:
        super().__init__()
        weight = table.weight
        self.num_embeddings, self.embedding_dim = table.num_embeddings, table.embedding_dim
        self.padding_idx = table.padding_idx
        self.first = nn.Embedding(self.num_embeddings, rank, self.padding_idx, device=weight.device, dtype=weight.dtype)
        self.second = nn.Linear(rank, self.embedding_dim, False, weight.device, weight.dtype)
        with torch.no_grad():
            out, vectors = factors(weight.T, rank)
            self.first.weight.copy_(out.T)
            self.second.weight.copy_(vectors)

    def forward(self, ids: Tensor) -> Tensor:
        return self.second(self.first(ids))

    @property
    def weight(self) -> Tensor:
        return self.first.weight @ self.second.weight.T


def factors(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(out, in) to (rank, in) and (out, rank), each with the roots of the singular values; on `meta` their shapes."""
    rows, columns = weight.shape
    if weight.is_meta:
        return weight.new_empty(rank, columns), weight.new_empty(rows, rank)
    left, values, right = torch.linalg.svd(weight.float(), full_matrices=False)
    root = values[:rank].sqrt()
    return (root[:, None] * right[:rank]).to(weight.dtype), (left[:, :rank] * root).to(weight.dtype)


def needed(weight: Tensor, energy: float) -> int:
    """The least rank that keeps this share of the sum of the squared singular values."""
    kept = torch.linalg.svdvals(weight.detach().float()).square().cumsum(0)
    return int((kept < energy * kept[-1]).sum()) + 1


def largest_rank(rows: int, columns: int) -> int:
    """Above it two factors have as many numbers as the matrix, or more."""
    return (rows * columns - 1) // (rows + columns)
