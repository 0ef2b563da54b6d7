"""Convolutional students: one layer, all widths of window side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smidgen.anatomy._parts import States

if TYPE_CHECKING:
    from transformers import PreTrainedModel

model_types = ("smidgen-cnn",)


def states(model: PreTrainedModel) -> States:
    whole: Any = model
    layer = whole.body
    return States(
        family="cnn",
        body=whole,
        layers=(layer,),
        hidden_size=sum(one.out_features for one in layer.filters),
        input_size=layer.size,
        above=(whole.classifier,),
    )
