"""DistilBERT (Sanh et al. 2019, arXiv:1910.01108): no token types, the classifier's first Linear pools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smidgen.anatomy._parts import Anatomy, Block, last_linear, relu

if TYPE_CHECKING:
    from transformers import PreTrainedModel

model_types = ("distilbert",)


def block(index: int, module: Any) -> Block:
    attention = module.attention
    return Block(
        index=index,
        module=module,
        query=attention.q_lin,
        key=attention.k_lin,
        value=attention.v_lin,
        out=attention.out_lin,
        up=module.ffn.lin1,
        down=module.ffn.lin2,
        head_size=attention.attention_head_size,
        attend=attention,
        feed=module.ffn,
    )


def parts(model: PreTrainedModel) -> Anatomy:
    body: Any = model.base_model
    layers = body.transformer.layer
    return Anatomy(
        family="distilbert",
        body=body,
        block_list=layers,
        blocks=tuple(block(i, module) for i, module in enumerate(layers)),
        embeddings=body.embeddings,
        hidden_size=model.config.hidden_size,
        pooler=getattr(model, "pre_classifier", None),
        activate=relu,
        head=last_linear(model),
        width_key="hidden_dim",
    )
