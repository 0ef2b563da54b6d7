"""BiLSTM students, with and without characters: one layer, and what makes a text's vector above it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smidgen.anatomy._parts import States

if TYPE_CHECKING:
    from transformers import PreTrainedModel

model_types = ("smidgen-bilstm", "smidgen-cnn-lstm")


def states(model: PreTrainedModel) -> States:
    body: Any = model.base_model
    return States(
        family="bilstm",
        body=body,
        layers=(body.lstm,),
        hidden_size=2 * body.lstm.hidden,
        input_size=body.lstm.ahead.input_size,
        above=(body.attention,) if hasattr(body, "attention") else (),
    )
