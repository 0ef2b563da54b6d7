"""Grow a corpus by masked words, other words of the same part of speech, and n-grams cut out.

Idea       For each word X ~ U[0, 1]: X < mask makes it the mask token; mask <= X < mask + pos makes it a word of the
           same part of speech, drawn by its frequency in the corpus; else it stays. Then with probability ngram only
           an n-gram of the copy is kept, n ~ U{1..5} (Tang et al. 2019, arXiv:1903.12136, section 3.3).
Takes      A corpus, and the tokenizer of the stage's model for its mask token. No labels, no teacher.
Leaves     Texts without labels, at most `copies` a row: none twice, none of the corpus, of dev or of test.
Beside     data.neighbours and data.language_model, which keep more of a text's sense. A later stage reads the texts by
           this one's name, `data: train+grown`, and a teacher labels them.
Fails      Without a teacher the texts are of no use: a copy has no label of its own. English parts of speech are wrong
           for other languages. There, take `tags: learned`, classes of words with vectors alike (k-means over the
           model's own table: rougher, and no parts of speech), or a file; a word that it has not stays. A model with
           another mask token than the stage's reads it letter by letter: then write mask: 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

import numpy as np

from smidgen.artefact import file_hash
from smidgen.corpus import SIDES, Copy, grow
from smidgen.errors import DataError
from smidgen.method import Context, Method, above, name_of, one_of, share
from smidgen.source import Source, resolve
from smidgen.speech import Bag, Cut, Tagger, bags, cut, english_tagger, read_tags, table_tagger
from smidgen.tokens import mask_token
from smidgen.vectors import has_table, learned_classes

LONGEST = 5  # words of an n-gram


@final
@dataclass(frozen=True)
class Noise(Method[None]):
    mask: float = 0.1  # share of words that become the mask token
    pos: float = 0.1  # share of words that become another one of the same part of speech
    ngram: float = 0.25  # share of copies of which only an n-gram is kept
    copies: int = 20  # a row, at most
    sides: str = "any"  # of a pair: first | second | both | any, drawn anew for each copy
    tags: str = "english"  # english (parts of speech, by textblob) | learned | a file with word<TAB>tag lines

    leaves: ClassVar[str] = "texts"

    def faults(self) -> Iterator[str]:
        for name in ("mask", "pos", "ngram"):
            yield from share(name, getattr(self, name))
        yield from above("copies", self.copies, 0)
        yield from one_of("sides", self.sides, SIDES)
        if self.tags not in ("english", "learned"):
            if not Path(self.tags).is_file():
                yield f"tags: got {self.tags!r}, wanted english, learned, or a file with word<TAB>tag lines."
            else:
                try:
                    read_tags(Path(self.tags))
                except DataError as error:
                    yield f"tags: got {self.tags!r}, wanted a file with word<TAB>tag lines. {error}"

    def misfits(self, source: Source) -> Iterator[str]:
        if self.mask and mask_token(source.path) is None:
            yield f"{source.reference} has no mask token. Write mask: 0, or from: a model that has one."
        if self.pos and self.tags == "learned" and not has_table(source):
            yield f"{source.reference} has no table of token embeddings to learn tags from. Write tags: FILE."

    def reads(self) -> Mapping[str, str]:
        return {} if self.tags in ("english", "learned") else {"tags": file_hash(Path(self.tags))}

    def most(self, rows: int) -> int:
        """Texts that it makes of so many rows, at most."""
        return rows * self.copies

    def run(self, ctx: Context) -> dict[str, int]:
        """Grow `ctx.corpus` into `ctx.target`; gives how many rows went in and came out."""
        assert ctx.corpus is not None
        source = resolve(str(ctx.source))
        tagger = self._tagger(source, ctx.corpus.texts, ctx.seed) if self.pos else table_tagger({})
        by_tag = bags(ctx.corpus.texts, tagger)
        token = mask_token(source.path) or ""

        def change(text: str) -> Copy:
            whole = cut(text)
            others = [by_tag[tag] for tag in tagger(whole.words)]
            return lambda rng: noised(whole, others, token, self.mask, self.pos, self.ngram, rng)

        return grow(ctx.corpus, change, self.copies, self.sides, ctx.seed, ctx.target, name_of(self))

    def _tagger(self, source: Source, texts: Sequence[str], seed: int) -> Tagger:
        if self.tags == "english":
            return english_tagger()
        if self.tags == "learned":
            return table_tagger(learned_classes(source, texts, seed))
        return table_tagger(read_tags(Path(self.tags)))


def noised(
    whole: Cut, others: Sequence[Bag], token: str, mask: float, pos: float, ngram: float, rng: np.random.Generator
) -> str:
    """One copy of a text. `others[i]` holds the corpus's words of word i's part of speech.

    An n-gram longer than the text is the text.
    """
    drawn = rng.random(len(whole.words))
    words = [
        token if x < mask else other.draw(rng) if x < mask + pos else word
        for word, other, x in zip(whole.words, others, drawn, strict=True)
    ]
    if words and rng.random() < ngram:
        n = min(int(rng.integers(1, LONGEST + 1)), len(words))
        start = int(rng.integers(len(words) - n + 1))
        return whole.text(words, start, start + n)
    return whole.text(words)
