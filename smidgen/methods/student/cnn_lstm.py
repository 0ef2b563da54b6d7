"""Put a BiLSTM over words and their characters in the place of the stage's model, for tagging.

Idea       x_t = [e_t; max_j relu(W [c_(j-1); c_j; c_(j+1)])] with the word's vector e and its characters c, then
           h = BiLSTM(x), z_t = V h_t (Ma and Hovy 2016, arXiv:1603.01354; as a student of BERT: Izsak et al. 2019,
           arXiv:1910.06294). Word vectors as in student.bilstm, characters are learned.
Takes      A float model of any family, for its table and tokenizer, and the texts that the stage trains on, for the
           vocabulary, see student.bilstm. Tags, or classes, which are read from the last states.
Leaves     A tagger of its own family, `smidgen-cnn-lstm`, with its own tokenizer. In its graph the character network is
           folded into the table of tokens.
Beside     distil.logits, whose teacher may cut words otherwise: tags are compared word by word.
Fails      A word outside the vocabulary has no characters either: give it many texts, or vocabulary: teacher, whose
           pieces spell any word.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
import torch

from smidgen.lexicon import FULL, spellings
from smidgen.making import LARGEST, grow, student_faults, vocabulary
from smidgen.method import Context, Method, between


@final
@dataclass(frozen=True)
class CnnLstm(Method[None]):
    embedding: int = 100  # width of the token vectors
    width: int = 100  # of the LSTM, in each direction
    hidden: int = 0  # of a ReLU layer before the classes; 0 = none
    character: int = 30  # width of the character vectors
    channels: int = 30  # of the convolution over three characters
    longest: int = 12  # characters of a token that are looked at
    dropout: float = 0.3
    vocabulary: str = "words"  # teacher = its pieces that occur | words | full = all of its pieces
    vocabulary_size: int = 30_000  # the most frequent so many; not of full
    lower: bool = False  # lower-case the words; names are told by their capitals

    new_model: ClassVar[bool] = True

    @property
    def new_tokenizer(self) -> bool:
        return self.vocabulary != FULL

    def faults(self) -> Iterator[str]:
        yield from student_faults(self.embedding, self.hidden, self.dropout, self.vocabulary, self.vocabulary_size)
        for name in ("width", "character", "channels", "longest"):
            yield from between(name, getattr(self, name), 1, LARGEST)

    def begin(self, ctx: Context) -> None:
        from smidgen.students._configs import CnnLstmConfig

        words = vocabulary(ctx, self.vocabulary, self.vocabulary_size, self.embedding, self.lower)
        spelt: np.ndarray = spellings(words.tokenizer, self.longest)
        config = CnnLstmConfig(
            vocab_size=len(words.table),
            embedding_size=self.embedding,
            alphabet_size=int(spelt.max()) + 1,
            character_size=self.character,
            channels=self.channels,
            longest=self.longest,
            lstm_size=self.width,
            head_size=self.hidden,
            dropout=self.dropout,
            pad_token_id=words.pad_id,
            **ctx.task.config(),
        )
        model: Any = grow(ctx, config, words, "student.cnn_lstm")
        model.body.spellings.copy_(torch.from_numpy(spelt))
