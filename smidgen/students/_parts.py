"""What several students are made of. Everywhere `mask` is (B, L), nonzero at real tokens, which stand on the left."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput, TokenClassifierOutput


class Student(PreTrainedModel):
    """What Hugging Face has to know of a model that keeps torch's own initial weights and has no attention."""

    base_model_prefix = "body"
    main_input_name = "input_ids"

    def _init_weights(self, module: nn.Module) -> None:
        return None


class Recurrent(Student):
    """A body of (input_ids, mask) to states (B, L, 2H) and a text's vector (B, 2H), and a head on one of them."""

    def __init__(self, config: Any, body: nn.Module) -> None:
        super().__init__(config)
        self.body = body
        self.classifier = head(2 * config.lstm_size, config.head_size, config.dropout, config.num_labels)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.body.word_embeddings  # type: ignore[return-value]


class OfTexts(Recurrent):
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> SequenceClassifierOutput:
        _, vector = self.body(input_ids, ones(input_ids, attention_mask))
        return SequenceClassifierOutput(logits=self.classifier(vector))


class OfTokens(Recurrent):
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> TokenClassifierOutput:
        states, _ = self.body(input_ids, ones(input_ids, attention_mask))
        return TokenClassifierOutput(logits=self.classifier(states))


def ones(input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """The mask, or one of ones where there is none."""
    return torch.ones_like(input_ids) if attention_mask is None else attention_mask


def shares(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the real tokens: (B, L) -> (B, L), 0 at padded ones."""
    return scores.masked_fill(mask == 0, torch.finfo(scores.dtype).min).softmax(-1)


def weighted(weights: Tensor, values: Tensor) -> Tensor:
    """Weighted sum over the tokens: (B, L), (B, L, H) -> (B, H)."""
    return (weights.unsqueeze(1).to(values.dtype) @ values).squeeze(1)


def head(width: int, hidden: int, dropout: float, classes: int | None) -> nn.Module:
    """Dropout and a Linear, behind a ReLU layer where `hidden` is not 0: (..., width) -> (..., classes)."""
    layer = [nn.Linear(width, hidden), nn.ReLU()] if hidden else []
    return nn.Sequential(*layer, nn.Dropout(dropout), nn.Linear(hidden or width, classes or 2))


class BiLstm(nn.Module):
    """One bidirectional LSTM that does not see padding: the backward direction starts at the last real token.

    It is two LSTMs, of which one reads the tokens in reverse, since that is four times as fast on a processor as
    packed sequences are. In an ONNX graph it is a single LSTM node which is told the lengths.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.ahead = nn.LSTM(width, hidden, batch_first=True)
        self.back = nn.LSTM(width, hidden, batch_first=True)

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, width) -> states (B, L, 2 hidden), 0 at padded tokens, and the last of each direction (B, 2 hidden).

        A row without any real token counts as one of one token.
        """
        lengths = mask.sum(1).clamp(min=1)
        if torch.compiler.is_exporting():
            return self._node(values, lengths)
        places = torch.arange(mask.shape[1], device=mask.device)
        mirror = (lengths[:, None] - 1 - places).clamp(min=0)
        ahead, _ = self.ahead(values)
        back, _ = self.back(_pick(values, mirror))
        last = (lengths - 1)[:, None]
        ends = torch.cat((_pick(ahead, last), _pick(back, last)), -1).squeeze(1)
        states = torch.cat((ahead, _pick(back, mirror)), -1)
        return states * (places < lengths[:, None]).unsqueeze(-1), ends

    def _node(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The same as one LSTM of ONNX, whose gates stand in another order."""
        batch, length, _ = values.shape
        both: tuple[Any, ...] = (self.ahead, self.back)
        inputs = (
            values.transpose(0, 1),
            torch.stack([_gates(one.weight_ih_l0) for one in both]),
            torch.stack([_gates(one.weight_hh_l0) for one in both]),
            torch.stack([torch.cat((_gates(one.bias_ih_l0), _gates(one.bias_hh_l0))) for one in both]),
            lengths.to(torch.int32),
        )
        states, ends = torch.onnx.ops.symbolic_multi_out(
            "::LSTM",
            inputs,
            {"direction": "bidirectional", "hidden_size": self.hidden},
            dtypes=(values.dtype, values.dtype),
            shapes=((length, 2, batch, self.hidden), (2, batch, self.hidden)),
            version=18,
        )
        return states.permute(2, 0, 1, 3).flatten(2), ends.transpose(0, 1).flatten(1)


def _pick(values: Tensor, places: Tensor) -> Tensor:
    """Rows by place: (B, L, H), (B, K) -> (B, K, H)."""
    return values.gather(1, places.unsqueeze(-1).expand(-1, -1, values.shape[-1]))


def _gates(weight: Tensor) -> Tensor:
    """torch's input, forget, cell, output to ONNX's input, output, forget, cell."""
    size = weight.shape[0] // 4
    return torch.cat([weight[gate * size : (gate + 1) * size] for gate in (0, 3, 1, 2)])
