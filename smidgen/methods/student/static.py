"""Put a table of token vectors with learned weights in the place of the stage's model.

Idea       z = W sum_t softmax(s)_t e_t, with a vector e and a score s for each token. Scores start at
           log(a / (a + p)), p the token's share of the training texts, which weighs frequent tokens less (Arora et
           al. 2017, https://openreview.net/forum?id=SyK00v5xx; model2vec, https://github.com/MinishLab/model2vec).
           Embeddings as in student.bilstm. All of it is trained.
Takes      A float model of any family, for its table and tokenizer, and the texts that the stage trains on, for the
           vocabulary and p. Single texts; a pair is one bag of tokens.
Leaves     A table of its own family, `smidgen-static`, with its own tokenizer. Nothing is faster: the tokenizer takes
           longer than the graph.
Beside     distil.logits with loss_kind mse, and many unlabelled texts.
Fails      Word order, negation and pairs are out of its sight.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
import torch

from smidgen.lexicon import KINDS
from smidgen.making import grow, student_faults, vocabulary
from smidgen.method import Context, Method, at_least


@final
@dataclass(frozen=True)
class Static(Method[None]):
    embedding: int = 256  # width of the token vectors
    hidden: int = 0  # of a ReLU layer before the classes; 0 = none
    smooth: float = 1e-3  # a of the first scores; 0 = all tokens weigh the same
    dropout: float = 0.1
    vocabulary: str = "teacher"  # teacher = pieces of the source's tokenizer that occur | words, in lower case
    vocabulary_size: int = 30_000  # the most frequent so many

    new_model: ClassVar[bool] = True

    @property
    def new_tokenizer(self) -> bool:
        return True

    def faults(self) -> Iterator[str]:
        yield from student_faults(
            self.embedding, self.hidden, self.dropout, self.vocabulary, self.vocabulary_size, KINDS
        )
        yield from at_least("smooth", self.smooth, 0)

    def begin(self, ctx: Context) -> None:
        from smidgen.students._configs import StaticConfig

        words = vocabulary(ctx, self.vocabulary, self.vocabulary_size, self.embedding)
        config = StaticConfig(
            vocab_size=len(words.table),
            embedding_size=self.embedding,
            head_size=self.hidden,
            dropout=self.dropout,
            pad_token_id=words.pad_id,
            **ctx.task.config(),
        )
        model: Any = grow(ctx, config, words, "student.static")
        if hasattr(model, "scores"):  # a tagger weighs nothing
            with torch.no_grad():
                model.scores.weight[:, 0] = torch.from_numpy(first_scores(words.counts, self.smooth)).float()


def first_scores(counts: np.ndarray, smooth: float) -> np.ndarray:
    """log(a / (a + p)) with p = counts / their sum, and a = `smooth`; zeros where that is 0: (V,) -> (V,)."""
    if smooth == 0:
        return np.zeros(len(counts))
    return np.log(smooth / (smooth + counts / max(counts.sum(), 1)))
