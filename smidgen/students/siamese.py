"""One BiLSTM that reads the two texts of a pair apart (Tang et al. 2019, arXiv:1903.12136, section 3.1).

With h1 and h2 the vectors of the texts, the classes are read from [h1; h2; |h1 - h2|; h1 * h2].
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from smidgen.students._configs import SiameseConfig
from smidgen.students._parts import Student, head, ones
from smidgen.students.bilstm import Reader


class SiameseForSequenceClassification(Student):
    config_class = SiameseConfig

    def __init__(self, config: SiameseConfig) -> None:
        super().__init__(config)
        self.body = Reader(config, config.pooling)
        self.classifier = head(8 * config.lstm_size, config.head_size, config.dropout, config.num_labels)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.body.word_embeddings

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> SequenceClassifierOutput:
        mask = ones(input_ids, attention_mask)
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        ids, masks = apart(input_ids, mask, types)
        _, pooled = self.body(ids, masks)
        one, other = pooled.chunk(2)
        return SequenceClassifierOutput(
            logits=self.classifier(torch.cat((one, other, (one - other).abs(), one * other), -1))
        )


def apart(input_ids: Tensor, mask: Tensor, types: Tensor) -> tuple[Tensor, Tensor]:
    """The first texts of all rows, then the second ones, each from place 0 on: ids and mask, both (2B, L).

    A text that is not there is read as token 0, alone.
    """
    first = (mask * (types == 0)).sum(1, keepdim=True)
    second = mask.sum(1, keepdim=True) - first
    length = input_ids.shape[1]
    places = torch.arange(length, device=input_ids.device).unsqueeze(0)
    moved = input_ids.gather(1, (places + first).clamp(max=length - 1)) * (places < second)
    return torch.cat((input_ids, moved)), torch.cat(((places < first).long(), (places < second.clamp(min=1)).long()))


model_classes = {"AutoModelForSequenceClassification": SiameseForSequenceClassification}
