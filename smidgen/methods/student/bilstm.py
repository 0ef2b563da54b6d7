"""Put a BiLSTM in the place of the stage's model, its embeddings from that model's table.

Idea       x_t the token embeddings, h = BiLSTM(x), z = W relu(V [h_L ahead; h_1 back]): Tang et al. 2019,
           arXiv:1903.12136. `attention` reads sum_t softmax(u tanh(A h_t)) h_t instead (after Liu et al. 2019,
           arXiv:1911.03588), `max` the maximum over t. Two texts of a pair are read apart and compared, [h1; h2; |h1 -
           h2|; h1 * h2]; where a row among pairs has one text, h2 is that of a padding token. Embeddings are the table
           of the model that the stage starts from, of the tokens that are kept, centred and cut to the width by its SVD
           (Mukherjee and Awadallah 2020, arXiv:2004.05686).
Takes      A float model of any family, for its table and tokenizer, and the texts that the stage trains on, for the
           vocabulary: `teacher`, the pieces of that tokenizer that occur, or `words`, in lower case, fewer a
           text. `full` keeps the tokenizer, so that tokens compare with the teacher's.
Leaves     A BiLSTM of its own family, `smidgen-bilstm` (`smidgen-siamese` for pairs), with its own tokenizer.
Beside     distil.logits with loss_kind mse, from the same stage on, and many unlabelled texts. With `vocabulary: full`,
           and `siamese: false` for pairs, distil.hidden before it.
Fails      Trained on a few hundred labels alone it is worse than TF-IDF. Beyond the cost of two or three Transformer
           blocks those are better.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from smidgen.errors import InputError
from smidgen.lexicon import FULL
from smidgen.making import LARGEST, grow, student_faults, vocabulary
from smidgen.method import Context, Method, between, one_of

POOLINGS = ("last", "attention", "max")


@final
@dataclass(frozen=True)
class Bilstm(Method[None]):
    embedding: int = 128  # width of the token vectors
    width: int = 150  # of the LSTM, in each direction
    hidden: int = 200  # of the ReLU layer before the classes; 0 = none
    pooling: str = "last"  # last | attention | max
    siamese: bool = True  # read the two texts of a pair apart; false = as one sequence
    dropout: float = 0.1
    vocabulary: str = "teacher"  # teacher = its pieces that occur | words, in lower case | full = all of its pieces
    vocabulary_size: int = 30_000  # the most frequent so many; not of full

    new_model: ClassVar[bool] = True

    @property
    def new_tokenizer(self) -> bool:
        return self.vocabulary != FULL

    def faults(self) -> Iterator[str]:
        yield from student_faults(self.embedding, self.hidden, self.dropout, self.vocabulary, self.vocabulary_size)
        yield from between("width", self.width, 1, LARGEST)
        yield from one_of("pooling", self.pooling, POOLINGS)

    def begin(self, ctx: Context) -> None:
        from smidgen.students._configs import BilstmConfig, SiameseConfig

        words = vocabulary(ctx, self.vocabulary, self.vocabulary_size, self.embedding)
        paired = self.siamese and any(pair for _, pair in ctx.texts)
        if paired and 1 not in words.tokenizer.encode("a", "b").type_ids:
            raise InputError(
                "student.bilstm: this tokenizer gives both texts of a pair the type 0, so they cannot be read apart. "
                "Write siamese: false, or vocabulary: words."
            )
        config = (SiameseConfig if paired else BilstmConfig)(
            vocab_size=len(words.table),
            embedding_size=self.embedding,
            lstm_size=self.width,
            head_size=self.hidden,
            pooling=self.pooling,
            dropout=self.dropout,
            pad_token_id=words.pad_id,
            **ctx.task.config(),
        )
        grow(ctx, config, words, "student.bilstm")
