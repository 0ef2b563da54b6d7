"""RoBERTa (Liu et al. 2019, arXiv:1907.11692), XLM-RoBERTa and CamemBERT: BERT's blocks, another head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smidgen.anatomy._parts import Anatomy, last_linear, pooling, tanh
from smidgen.anatomy.bert import block

if TYPE_CHECKING:
    from transformers import PreTrainedModel

model_types = ("roberta", "xlm-roberta", "camembert")


def parts(model: PreTrainedModel) -> Anatomy:
    body: Any = model.base_model
    pooler, activate = pooling(model, tanh)
    return Anatomy(
        family="roberta",
        body=body,
        block_list=body.encoder.layer,
        blocks=tuple(block(i, module) for i, module in enumerate(body.encoder.layer)),
        embeddings=body.embeddings,
        hidden_size=model.config.hidden_size,
        pooler=pooler,
        activate=activate,
        head=last_linear(model),
    )
