"""A vector and a weight for each token, and nothing that looks at two tokens at once.

With e_t and s_t of the token at place t, the text is sum_t softmax(s)_t e_t: the weighted mean of fastText-like and
model2vec-like models, its weights learned. The graph is two look-ups, a softmax, a product and the head.
"""

from __future__ import annotations

from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput, TokenClassifierOutput

from smidgen.students._configs import StaticConfig
from smidgen.students._parts import Student, head, ones, shares, weighted


class StaticForSequenceClassification(Student):
    config_class = StaticConfig

    def __init__(self, config: StaticConfig) -> None:
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.embedding_size)
        self.scores = nn.Embedding(config.vocab_size, 1)
        self.classifier = head(config.embedding_size, config.head_size, config.dropout, config.num_labels)
        nn.init.zeros_(self.scores.weight)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.word_embeddings

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> SequenceClassifierOutput:
        share = shares(self.scores(input_ids).squeeze(-1), ones(input_ids, attention_mask))
        return SequenceClassifierOutput(logits=self.classifier(weighted(share, self.word_embeddings(input_ids))))


class StaticForTokenClassification(Student):
    """Each token's own label, whatever stands beside it: the least that a tagger can be."""

    config_class = StaticConfig

    def __init__(self, config: StaticConfig) -> None:
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.embedding_size)
        self.classifier = head(config.embedding_size, config.head_size, config.dropout, config.num_labels)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.word_embeddings

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> TokenClassifierOutput:
        return TokenClassifierOutput(logits=self.classifier(self.word_embeddings(input_ids)))


model_classes = {
    "AutoModelForSequenceClassification": StaticForSequenceClassification,
    "AutoModelForTokenClassification": StaticForTokenClassification,
}
