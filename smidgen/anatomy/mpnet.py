"""MPNet (Song et al. 2020, arXiv:2004.09297): a relative position bias, one for all blocks, is added to scores.

A block whose heads have been cut takes those heads' part of the bias, so that the table itself stays whole.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from smidgen.anatomy._parts import Anatomy, Block, last_linear, pooling, product, tanh

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

model_types = ("mpnet",)


def biased(
    query: Tensor, key: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any], kept: tuple[int, ...] | None = None
) -> Tensor:
    """Scaled products plus the bias (B, heads, L, L) that the encoder hands to each block, of the heads it has kept."""
    bias = kwargs["position_bias"] if "position_bias" in kwargs else args[2]
    return product(query, key, args, kwargs) + (bias if kept is None else bias[:, list(kept)]).to(query.dtype)


def tell(attention: Any, heads: tuple[int, ...]) -> None:
    """Which of the heads that it had stay: the bias that the encoder hands on is of all that there were at first."""
    before = getattr(attention, "kept", None)
    attention.kept = heads if before is None else tuple(before[head] for head in heads)
    attention.__class__ = _choosy()


@functools.cache
def _choosy() -> type:
    from transformers.models.mpnet.modeling_mpnet import MPNetSelfAttention

    class ChoosyAttention(MPNetSelfAttention):
        kept: tuple[int, ...]

        def forward(  # type: ignore[no-untyped-def]
            self, hidden_states, attention_mask=None, position_bias=None, output_attentions=False, **kwargs
        ):
            bias = None if position_bias is None else position_bias[:, list(self.kept)]
            return super().forward(hidden_states, attention_mask, bias, output_attentions, **kwargs)

    return ChoosyAttention


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
        attend=attention,
        feed=module.intermediate,
        score=functools.partial(biased, kept=getattr(attention, "kept", None)),
        tell=functools.partial(tell, attention),
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
