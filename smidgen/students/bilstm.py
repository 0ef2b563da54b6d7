"""BiLSTM over token embeddings (Tang et al. 2019, arXiv:1903.12136), also with attention (Liu et al. 2019,
arXiv:1911.03588) or the maximum over the tokens in place of its last states.

A pair of texts is read as one sequence; `smidgen.students.siamese` reads its parts apart.
"""

from __future__ import annotations

from torch import Tensor, nn

from smidgen.students._configs import BilstmConfig
from smidgen.students._parts import BiLstm, OfTexts, OfTokens, shares, weighted


class Reader(nn.Module):
    """Tokens to one vector a text and one a token, each of 2 * lstm_size."""

    def __init__(self, config: BilstmConfig, pooling: str) -> None:
        super().__init__()
        self.pooling = pooling
        self.word_embeddings = nn.Embedding(config.vocab_size, config.embedding_size)
        self.dropout = nn.Dropout(config.dropout)
        self.lstm = BiLstm(config.embedding_size, config.lstm_size)
        if pooling == "attention":
            self.attention = nn.Sequential(
                nn.Linear(2 * config.lstm_size, config.lstm_size), nn.Tanh(), nn.Linear(config.lstm_size, 1, bias=False)
            )

    def forward(self, input_ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L) -> states (B, L, 2H) and the text's vector (B, 2H)."""
        states, last = self.lstm(self.dropout(self.word_embeddings(input_ids)), mask)
        if self.pooling == "attention":
            return states, weighted(shares(self.attention(states).squeeze(-1), mask), states)
        if self.pooling == "max":
            return states, states.masked_fill(mask.unsqueeze(-1) == 0, -1).amax(1)  # no state is below -1
        return states, last


class BilstmForSequenceClassification(OfTexts):
    config_class = BilstmConfig

    def __init__(self, config: BilstmConfig) -> None:
        super().__init__(config, Reader(config, config.pooling))


class BilstmForTokenClassification(OfTokens):
    config_class = BilstmConfig

    def __init__(self, config: BilstmConfig) -> None:
        super().__init__(config, Reader(config, "last"))  # any other has weights for a vector that nothing reads


model_classes = {
    "AutoModelForSequenceClassification": BilstmForSequenceClassification,
    "AutoModelForTokenClassification": BilstmForTokenClassification,
}
