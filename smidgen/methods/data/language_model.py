"""Grow a corpus by words that a masked language model puts in each place.

Idea       Each word is, with probability share, replaced by one of k others, each as likely: where it is one token, the
           k likeliest words by p(w | the text with the mask token in its place); where it is several, its k nearest
           words by the cosine v.v' / (|v| |v'|); `copies` times a row (Jiao et al. 2020, arXiv:1909.10351,
           Algorithm 1).
Takes      A corpus, and a masked language model with its head: `model`, or the stage's own. No labels, no teacher.
Leaves     Texts without labels, at most `copies` a row: none twice, none of the corpus, of dev or of test.
Beside     data.neighbours, which is faster and needs no language model. A later stage reads the texts by this
           one's name, `data: train+grown`, and a teacher labels them.
Fails      One forward pass for each word of the corpus: a small language model, or a small corpus. What fits a place
           may be its opposite (a bad film, a good film): hence the teacher's label. Only words of three letters or
           more that are no English stop words are replaced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

from smidgen.artefact import file_hash
from smidgen.corpus import Copy, grow
from smidgen.errors import ModelError, NoEffect
from smidgen.fill import fill, speaks
from smidgen.method import Context, Method, name_of, one_of
from smidgen.source import Source, resolve
from smidgen.speech import cut, swapped
from smidgen.vectors import has_table, neighbours, swap_faults

REST = ("neighbours", "keep")


@final
@dataclass(frozen=True)
class LanguageModel(Method[None]):
    model: str = ""  # a masked language model: a folder, a Hub id or package:NAME/FOLDER; empty = the stage's own
    share: float = 0.4  # probability of a word to be replaced
    k: int = 15  # words to draw from
    copies: int = 20  # a row, at most
    sides: str = "any"  # of a pair: first | second | both | any, drawn anew for each copy
    rest: str = "neighbours"  # words of several tokens: neighbours | keep
    vectors: str = ""  # for the neighbours: a file of word vectors; empty = the language model's input embeddings

    leaves: ClassVar[str] = "texts"

    def faults(self) -> Iterator[str]:
        yield from swap_faults(self.share, self.k, self.copies, self.sides, self.vectors)
        yield from one_of("rest", self.rest, REST)
        if self.model:
            try:
                why = next(self._unfit(resolve(self.model)), "")
            except ModelError as error:
                why = str(error)
            if why:
                yield f"model: got {self.model!r}, wanted a masked language model with its head. {why}"

    def misfits(self, source: Source) -> Iterator[str]:
        if not self.model:
            for why in self._unfit(source):
                yield f"{why} Write model: a masked language model."

    def reads(self) -> Mapping[str, str]:
        model = {"model": resolve(self.model).id} if self.model else {}
        return model | ({"vectors": file_hash(Path(self.vectors).expanduser())} if self.vectors else {})

    def most(self, rows: int) -> int:
        """Texts that it makes of so many rows, at most."""
        return rows * self.copies

    def run(self, ctx: Context) -> dict[str, int]:
        """Grow `ctx.corpus` into `ctx.target`; gives how many rows went in and came out."""
        assert ctx.corpus is not None
        source = resolve(self.model or str(ctx.source))
        texts = ctx.corpus.texts
        said = dict(zip(texts, fill(source, texts, self.k, ctx.corpus.work, ctx.corpus.watch), strict=True))
        words = (w for text in texts for i, w in enumerate(cut(text).words) if i not in said[text])
        near = neighbours(words, source, self.vectors, self.k) if self.rest == "neighbours" else {}
        if not any(said.values()) and not any(near.values()):
            raise NoEffect(f"data.language_model: {source.reference} knows no word of the corpus. Give another model.")

        def change(text: str) -> Copy:
            whole = cut(text)
            options = [said[text].get(i) or near.get(word, ()) for i, word in enumerate(whole.words)]
            return lambda rng: swapped(whole, options, self.share, rng)

        return grow(ctx.corpus, change, self.copies, self.sides, ctx.seed, ctx.target, name_of(self))

    def _unfit(self, source: Source) -> Iterator[str]:
        """Why a model cannot do the work."""
        if why := speaks(source):
            yield f"{source.reference}: {why}."
        elif self.rest == "neighbours" and not self.vectors and not has_table(source):
            yield f"{source.reference}: no table of token embeddings in it; rest: keep needs none."
