"""BiLSTM over words and their characters, for tagging (Ma and Hovy 2016, arXiv:1603.01354; as a student: Izsak et al.
2019, arXiv:1910.06294).

A token's characters follow from its id: they are kept as a table, `spellings`, so that the model takes what every
other one takes. Hence what a token's characters say is itself one vector a token, and an ONNX graph holds it as such:
the character network costs nothing there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smidgen.students._configs import CnnLstmConfig
from smidgen.students._parts import BiLstm, OfTexts, OfTokens
from smidgen.students.cnn import Convolutions


class Speller(nn.Module):
    """Tokens to states: word vector and character vector, then a BiLSTM."""

    def __init__(self, config: CnnLstmConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.embedding_size)
        self.characters = nn.Embedding(config.alphabet_size, config.character_size)
        self.convolution = Convolutions(config.character_size, (config.character_window,), config.channels)
        self.dropout = nn.Dropout(config.dropout)
        self.lstm = BiLstm(config.embedding_size + config.channels, config.lstm_size)
        self.spellings: Tensor
        self.register_buffer("spellings", torch.zeros(config.vocab_size, config.longest, dtype=torch.int32))

    def forward(self, input_ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L) -> states (B, L, 2H) and the last of each direction (B, 2H)."""
        if torch.compiler.is_exporting():
            values = F.embedding(input_ids, torch.cat((self.word_embeddings.weight, self.spelt(self.spellings)), -1))
        else:
            spelt = self.spelt(self.spellings[input_ids].flatten(0, 1))
            values = torch.cat((self.word_embeddings(input_ids), spelt.unflatten(0, input_ids.shape)), -1)
        return self.lstm(self.dropout(values), mask)

    def spelt(self, spellings: Tensor) -> Tensor:
        """Character ids to one vector a token: (N, longest) -> (N, channels)."""
        real = (spellings != 0).unsqueeze(-1).to(self.characters.weight.dtype)
        found = self.convolution(self.characters(spellings) * real)
        return (found * real).amax(1)


class CnnLstmForTokenClassification(OfTokens):
    config_class = CnnLstmConfig

    def __init__(self, config: CnnLstmConfig) -> None:
        super().__init__(config, Speller(config))


class CnnLstmForSequenceClassification(OfTexts):
    config_class = CnnLstmConfig

    def __init__(self, config: CnnLstmConfig) -> None:
        super().__init__(config, Speller(config))


model_classes = {
    "AutoModelForSequenceClassification": CnnLstmForSequenceClassification,
    "AutoModelForTokenClassification": CnnLstmForTokenClassification,
}
