"""MobileBERT (Sun et al. 2020, arXiv:2004.02984): BERT's blocks behind bottlenecks, with stacked feed-forwards.

`hidden` is what a block gives, at the width of its ends; heads and feed-forward live at the width inside. `up` and
`down` are the last feed-forward of the stack, which is why the inside of a block cannot be cut. The input of a token
has its neighbours in it: padding changes nothing as long as the padding token's vector is 0, as transformers draws and
keeps it.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from smidgen.anatomy._parts import Anatomy, last_linear
from smidgen.anatomy.bert import block

if TYPE_CHECKING:
    from transformers import PreTrainedModel

model_types = ("mobilebert",)


def parts(model: PreTrainedModel) -> Anatomy:
    body: Any = model.base_model
    return Anatomy(
        family="mobilebert",
        body=body,
        block_list=body.encoder.layer,
        blocks=tuple(
            dataclasses.replace(block(i, module), attend=None, feed=None) for i, module in enumerate(body.encoder.layer)
        ),
        embeddings=body.embeddings,
        hidden_size=model.config.hidden_size,
        pooler=body.pooler,
        head=last_linear(model),
    )
