"""ModernBERT (Warner et al. 2024, arXiv:2412.13663): one Linear for query, key and value, a gated feed-forward,
rotary positions, local attention in most blocks, norms before the sublayers and one after the last block.

Block 0 is built without a norm before its attention, since the embeddings end in one. A model loaded from a config
gives that shape to whichever block comes first, so block 0 is pinned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from smidgen.anatomy._parts import Anatomy, Block, last_linear, product

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

model_types = ("modernbert",)


def turn(values: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021, arXiv:2104.09864): values (B, heads, L, D), cos and sin (1 or B, L, D)."""
    import torch

    left, right = values.chunk(2, dim=-1)
    return values * cos.unsqueeze(1) + torch.cat((-right, left), dim=-1) * sin.unsqueeze(1)


def turned(query: Tensor, key: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """Scaled products of query and key, each turned by the angles that the body hands to each block."""
    cos, sin = kwargs["position_embeddings"]
    return product(turn(query, cos, sin), turn(key, cos, sin), args, kwargs)


def block(index: int, module: Any) -> Block:
    attention = module.attn
    return Block(
        index=index,
        module=module,
        query=attention.Wqkv,
        key=attention.Wqkv,
        value=attention.Wqkv,
        out=attention.Wo,
        up=module.mlp.Wi,
        down=module.mlp.Wo,
        head_size=attention.head_dim,
        attend=attention,
        feed=module.mlp,
        attend_norm=module.attn_norm,
        feed_norm=module.mlp_norm,
        fused=True,
        gated=True,
        window=attention.config.sliding_window if module.attention_type == "sliding_attention" else None,
        score=turned,
    )


def parts(model: PreTrainedModel) -> Anatomy:
    from transformers import ModernBertForMultipleChoice, ModernBertForSequenceClassification

    body: Any = model.base_model
    pools = isinstance(model, (ModernBertForSequenceClassification, ModernBertForMultipleChoice))
    return Anatomy(
        family="modernbert",
        body=body,
        block_list=body.layers,
        blocks=tuple(block(i, module) for i, module in enumerate(body.layers)),
        embeddings=body.embeddings,
        hidden_size=model.config.hidden_size,
        pooler=getattr(model, "head", None) if pools else None,
        head=last_linear(model),
        norm=body.final_norm,
        pinned=(0,),
    )
