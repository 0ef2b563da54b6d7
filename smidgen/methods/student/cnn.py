"""Put a small convolutional network in the place of the stage's model, its embeddings from that model's table.

Idea       c_t = relu(W [x_(t-k); ...; x_(t+k)]) for windows of several widths, z = V max_t c_t: Kim 2014,
           arXiv:1408.5882. Embeddings as in student.bilstm.
Takes      A float model of any family, for its table and tokenizer, and the texts that the stage trains on, for the
           vocabulary, see student.bilstm. Single texts; a pair is read as one sequence.
Leaves     A network of its own family, `smidgen-cnn`, with its own tokenizer. Its products quantise like any other.
Beside     distil.logits with loss_kind mse, and many unlabelled texts.
Fails      What hangs on words further apart than the widest window is out of its sight; so are pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from smidgen.lexicon import FULL
from smidgen.making import LARGEST, grow, student_faults, vocabulary
from smidgen.method import Context, Method, between

WIDEST = 32


@final
@dataclass(frozen=True)
class Cnn(Method[None]):
    embedding: int = 128  # width of the token vectors
    widths: tuple[int, ...] = (3, 4, 5)  # tokens in a window, one convolution each
    channels: int = 100  # of each convolution
    hidden: int = 0  # of a ReLU layer before the classes; 0 = none
    dropout: float = 0.1
    vocabulary: str = "teacher"  # teacher = its pieces that occur | words, in lower case | full = all of its pieces
    vocabulary_size: int = 30_000  # the most frequent so many; not of full

    new_model: ClassVar[bool] = True

    @property
    def new_tokenizer(self) -> bool:
        return self.vocabulary != FULL

    def faults(self) -> Iterator[str]:
        yield from student_faults(self.embedding, self.hidden, self.dropout, self.vocabulary, self.vocabulary_size)
        if not self.widths or not all(1 <= width <= WIDEST for width in self.widths):
            yield f"widths: got {list(self.widths)}, wanted numbers of tokens from 1 to {WIDEST}, such as [3, 4, 5]."
        yield from between("channels", self.channels, 1, LARGEST)

    def begin(self, ctx: Context) -> None:
        from smidgen.students._configs import CnnConfig

        words = vocabulary(ctx, self.vocabulary, self.vocabulary_size, self.embedding)
        config = CnnConfig(
            vocab_size=len(words.table),
            embedding_size=self.embedding,
            widths=self.widths,
            channels=self.channels,
            head_size=self.hidden,
            dropout=self.dropout,
            pad_token_id=words.pad_id,
            **ctx.task.config(),
        )
        grow(ctx, config, words, "student.cnn")
