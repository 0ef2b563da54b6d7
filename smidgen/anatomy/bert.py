"""BERT (Devlin et al. 2018, arXiv:1810.04805), the plan that RoBERTa and ELECTRA follow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smidgen.anatomy._parts import Anatomy, Block, last_linear

if TYPE_CHECKING:
    from transformers import PreTrainedModel

model_types = ("bert",)


def block(index: int, module: Any) -> Block:
    attention = module.attention.self
    return Block(
        index=index,
        module=module,
        query=attention.query,
        key=attention.key,
        value=attention.value,
        out=module.attention.output.dense,
        up=module.intermediate.dense,
        down=module.output.dense,
        head_size=attention.attention_head_size,
        attend=attention,
        feed=module.intermediate,
    )


def parts(model: PreTrainedModel) -> Anatomy:
    body: Any = model.base_model
    return Anatomy(
        family="bert",
        body=body,
        block_list=body.encoder.layer,
        blocks=tuple(block(i, module) for i, module in enumerate(body.encoder.layer)),
        embeddings=body.embeddings,
        hidden_size=model.config.hidden_size,
        pooler=body.pooler,
        head=last_linear(model),
    )
