"""Convolutions over token embeddings and the maximum over the tokens (Kim 2014, arXiv:1408.5882).

A convolution is written as one product over windows of tokens: ONNX Runtime runs it faster than `Conv`, 67 against
74 us for 24 tokens, and in int8 47 against 80 us, since its products are quantised like any other.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import SequenceClassifierOutput

from smidgen.students._configs import CnnConfig
from smidgen.students._parts import Student, head, ones


class Convolutions(nn.Module):
    """Parallel convolutions of several widths, padded with zeros, then ReLU: (B, L, E) -> (B, L, channels * widths)."""

    def __init__(self, size: int, widths: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.size, self.widths = size, widths
        self.filters = nn.ModuleList(nn.Linear(width * size, channels) for width in widths)

    def forward(self, values: Tensor) -> Tensor:
        """`values` are 0 at padded tokens, so that a text ends in zeros whatever the padding."""
        widest, length = max(self.widths), values.shape[1]
        before = (widest - 1) // 2
        padded = F.pad(values, (0, 0, before, widest // 2))
        windows = torch.cat([padded[:, i : i + length] for i in range(widest)], -1)
        found = []
        for width, filter_ in zip(self.widths, self.filters, strict=True):
            start = (before - (width - 1) // 2) * self.size
            found.append(filter_(windows[..., start : start + width * self.size]))
        return torch.cat(found, -1).relu()


class CnnForSequenceClassification(Student):
    config_class = CnnConfig

    def __init__(self, config: CnnConfig) -> None:
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.embedding_size)
        self.dropout = nn.Dropout(config.dropout)
        self.body = Convolutions(config.embedding_size, tuple(config.widths), config.channels)
        width = len(config.widths) * config.channels
        self.classifier = head(width, config.head_size, config.dropout, config.num_labels)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.word_embeddings

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> SequenceClassifierOutput:
        values = self.dropout(self.word_embeddings(input_ids))
        real = ones(input_ids, attention_mask).unsqueeze(-1).to(values.dtype)
        found = self.body(values * real)
        return SequenceClassifierOutput(logits=self.classifier((found * real).amax(1)))


model_classes = {"AutoModelForSequenceClassification": CnnForSequenceClassification}
