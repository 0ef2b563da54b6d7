"""Multi-query attention: one key and one value head that all queries share (Shazeer 2019, arXiv:1911.02150).

They start as the mean of the heads' own (Ainslie et al. 2023, arXiv:2305.13245). A text encoder keeps no keys for
later, so what is spared is these two projections, a seventh of a block's products at most.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from smidgen.anatomy import Block
from smidgen.edits._parts import put

SETTINGS = ()


def swap(block: Block) -> None:
    attend: Any = block.attend
    attend.num_key_value_groups = block.heads  # how transformers' fused attention knows of it
    for linear in (block.key, block.value):
        put(block.module, linear, pooled(linear, block.head_size))


@torch.no_grad()
def pooled(linear: nn.Linear, head_size: int) -> nn.Linear:
    """The mean over heads of a projection to heads: (H, heads * head_size) becomes (H, head_size)."""
    weight, bias = linear.weight, linear.bias
    one = nn.Linear(linear.in_features, head_size, bias is not None, weight.device, weight.dtype)
    one.weight.copy_(weight.unflatten(0, (-1, head_size)).mean(0))
    if bias is not None:
        one.bias.copy_(bias.unflatten(0, (-1, head_size)).mean(0))
    return one
