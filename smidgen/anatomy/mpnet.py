"""MPNet (Song et al. 2020, arXiv:2004.09297): a relative position bias, one for all blocks, is added to scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from smidgen.anatomy._parts import Anatomy, Block, last_linear, pooling, product, tanh

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

model_types = ("mpnet",)


def biased(query: Tensor, key: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """Scaled products plus the bias (B, heads, L, L) that the encoder hands to each block."""
    bias = kwargs["position_bias"] if "position_bias" in kwargs else args[2]
    return product(query, key, args, kwargs) + bias.to(query.dtype)


def block(index: int, module: Any) -> Block:
    attention = module.attention.attn
    return Block(
        index=index,
        module=module,
        query=attention.q,
        key=attention.k,
        value=attention.v,
        out=attention.o,
        up=module.intermediate.dense,
        down=module.output.dense,
        head_size=attention.attention_head_size,
        attention=attention,
        in_tuple=True,
        score=biased,
    )


def parts(model: PreTrainedModel) -> Anatomy:
    body: Any = model.base_model
    pooler, activate = pooling(model, tanh)
    return Anatomy(
        family="mpnet",
        body=body,
        block_list=body.encoder.layer,
        blocks=tuple(block(i, module) for i, module in enumerate(body.encoder.layer)),
        embeddings=body.embeddings,
        hidden_size=model.config.hidden_size,
        pooler=pooler,
        activate=activate,
        head=last_linear(model),
    )
