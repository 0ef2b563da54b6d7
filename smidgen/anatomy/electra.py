"""ELECTRA (Clark et al. 2020, arXiv:2003.10555): BERT's blocks, no pooler in the body, a head with GELU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smidgen.anatomy._parts import Anatomy, as_is, last_linear, pooling
from smidgen.anatomy.bert import block

if TYPE_CHECKING:
    from transformers import PreTrainedModel

model_types = ("electra",)


def parts(model: PreTrainedModel) -> Anatomy:
    body: Any = model.base_model
    pooler, activate = pooling(model, getattr(getattr(model, "classifier", None), "activation", as_is))
    return Anatomy(
        family="electra",
        body=body,
        block_list=body.encoder.layer,
        blocks=tuple(block(i, module) for i, module in enumerate(body.encoder.layer)),
        embeddings=body.embeddings,
        project=getattr(body, "embeddings_project", None),
        hidden_size=model.config.hidden_size,
        pooler=pooler,
        activate=activate,
        head=last_linear(model),
    )
