"""Grow a corpus by words in the place of near ones.

Idea       Each word is, with probability share, replaced by one of the k words w' whose vectors are nearest to its own,
           cos(v, v') = v.v' / (|v| |v'|), each as likely; `copies` times a row (Jiao et al. 2020, arXiv:1909.10351,
           Algorithm 1, its part for words that the language model does not know).
Takes      A corpus. Vectors are a file in the text format of word2vec or GloVe, or the input embeddings of the stage's
           model, a word's the mean of its pieces'. No labels, no teacher.
Leaves     Texts without labels, at most `copies` a row: none twice, none of the corpus, of dev or of test.
Beside     data.language_model, whose words fit the text around them. A later stage reads the texts by this
           one's name, `data: train+grown`, and a teacher labels them.
Fails      Near words are of one topic, not of one sense: good stands near bad. Hence the teacher's label, not the
           row's. Only words of three letters or more that are no English stop words are replaced. A model's table is
           a rough stand-in for GloVe.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

from smidgen.artefact import file_hash
from smidgen.corpus import Copy, grow
from smidgen.errors import NoEffect
from smidgen.method import Context, Method, name_of
from smidgen.source import Source, resolve
from smidgen.speech import cut, swapped
from smidgen.vectors import has_table, neighbours, swap_faults


@final
@dataclass(frozen=True)
class Neighbours(Method[None]):
    share: float = 0.4  # probability of a word to be replaced
    k: int = 15  # nearest words to draw from
    copies: int = 20  # a row, at most
    sides: str = "any"  # of a pair: first | second | both | any, drawn anew for each copy
    vectors: str = ""  # a file of word vectors; empty = the input embeddings of the stage's model

    leaves: ClassVar[str] = "texts"

    def faults(self) -> Iterator[str]:
        yield from swap_faults(self.share, self.k, self.copies, self.sides, self.vectors)

    def misfits(self, source: Source) -> Iterator[str]:
        if not self.vectors and not has_table(source):
            yield f"{source.reference} has no table of token embeddings. Write vectors: FILE."

    def reads(self) -> Mapping[str, str]:
        return {"vectors": file_hash(Path(self.vectors).expanduser())} if self.vectors else {}

    def most(self, rows: int) -> int:
        """Texts that it makes of so many rows, at most."""
        return rows * self.copies

    def run(self, ctx: Context) -> dict[str, int]:
        """Grow `ctx.corpus` into `ctx.target`; gives how many rows went in and came out."""
        assert ctx.corpus is not None
        words = (word for text in ctx.corpus.texts for word in cut(text).words)
        near = neighbours(words, resolve(str(ctx.source)), self.vectors, self.k)
        if not any(near.values()):
            raise NoEffect("data.neighbours: no word of the corpus has a vector and neighbours. Give other vectors.")

        def change(text: str) -> Copy:
            whole = cut(text)
            options = [near.get(word, ()) for word in whole.words]
            return lambda rng: swapped(whole, options, self.share, rng)

        return grow(ctx.corpus, change, self.copies, self.sides, ctx.seed, ctx.target, name_of(self))
