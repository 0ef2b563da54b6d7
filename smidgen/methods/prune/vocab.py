"""Drop the tokens that the texts never use, from the model's table and from its tokenizer.

Idea       Of a table of V x H numbers a task touches some rows: keep those of K = {t : count(t) >= least} in the
           stage's texts, with special tokens, single characters, bytes, and the halves of the pieces in K, so that
           every other text can still be spelt (Abdaoui et al. 2020, arXiv:2010.05609; Yang et al. 2022,
           arXiv:2203.15996). With `least: 1` those texts have the same pieces, and the model says the same of them.
Takes      A float model of a family with an anatomy, its tokenizer a WordPiece, a BPE or a Unigram, and texts: write
           data: train+unlabeled for all there are.
Leaves     The same model with fewer rows, and its own tokenizer with new ids. What dev loses is told: words that are
           now cut otherwise, or are unknown.
Beside     Every other method. As a stage of its own after the teacher, so that students start from it and token
           objectives still compare.
Fails      Texts of another kind than these are cut smaller, so they grow longer and say less. Little to gain where the
           table is a small part of the model; most in a multilingual one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from smidgen.edits.keep_vocab import KeepVocab, fixed, special_ids
from smidgen.errors import InputError, NoEffect
from smidgen.lexicon import count, cut, endless, inside_unknown
from smidgen.method import Context, Method, at_least, one_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from smidgen.source import Source

KINDS = ("WordPiece", "BPE", "Unigram")


@final
@dataclass(frozen=True)
class Vocab(Method[tuple["Tokenizer", "Tokenizer"]]):
    least: int = 1  # times that a token occurs in the texts of the stage, to stay
    characters: str = "all"  # single characters that stay: all | seen, those of the texts; of BPE all stay

    @property
    def new_tokenizer(self) -> bool:
        return True

    def faults(self) -> Iterator[str]:
        yield from at_least("least", self.least, 0)
        yield from one_of("characters", self.characters, ("all", "seen"))

    def misfits(self, source: Source) -> Iterator[str]:
        kind = json.loads((source.path / "tokenizer.json").read_text(encoding="utf-8"))["model"].get("type")
        if kind not in (None, *KINDS):
            yield f"the tokenizer of {source.reference} is a {kind}, which cannot be cut. Wanted {', '.join(KINDS)}."

    def begin(self, ctx: Context) -> tuple[Tokenizer, Tokenizer]:
        from tokenizers import Tokenizer

        assert ctx.model is not None
        before = endless(ctx.tokenizer or Tokenizer.from_file(str(ctx.source / "tokenizer.json")))
        counts = count(before, ctx.sight.training_texts())
        if not counts.any():
            raise InputError(
                "prune.vocab: the texts of this stage have no token. Give it texts: data: train+unlabeled."
            )
        wanted = {int(i) for i in (counts >= self.least).nonzero()[0]}
        if self.least == 1:
            wanted |= inside_unknown(before, ctx.sight.training_texts())
        table: Any = ctx.model.get_input_embeddings()
        wanted |= {i for i in special_ids(ctx.model.config).values() if i < table.num_embeddings}
        wanted |= set(range(fixed(ctx.model)))
        letters = None
        if self.characters == "seen":
            letters = {letter for piece, i in before.get_vocab().items() if counts[i] for letter in piece}
        after, kept = cut(before, wanted, letters)
        if after.get_vocab_size() == before.get_vocab_size():
            raise NoEffect(
                f"prune.vocab: least {self.least} keeps all {len(kept)} tokens. Write a larger one, or drop it."
            )
        ctx.edit(KeepVocab(tuple(map(int, kept))))
        ctx.tokenizer = after
        return before, after

    def found(self, state: tuple[Tokenizer, Tokenizer], ctx: Context, folder: Path) -> dict[str, Any]:
        before, after = state
        sizes = [before.get_vocab_size(), after.get_vocab_size()]
        bytes_ = [sum((where / name).stat().st_size for name in FILES) / 1e6 for where in (ctx.source, folder)]
        words, cut_otherwise, unknown = changed(before, after, ctx.sight.dev_texts())
        told = (
            f"{sizes[1]:,} of {sizes[0]:,} tokens are left; {' and '.join(FILES)} went from {bytes_[0]:.1f} to "
            f"{bytes_[1]:.1f} MB. Of {words:,} words of dev {cut_otherwise / max(words, 1):.2%} are cut otherwise than "
            f"before, {unknown / max(words, 1):.2%} have become unknown."
        )
        return {
            "tokens_before": sizes[0],
            "tokens": sizes[1],
            "mb_before": bytes_[0],
            "mb": bytes_[1],
            "dev_words": words,
            "dev_words_changed": cut_otherwise,
            "dev_words_unknown": unknown,
            "told": told,
        }


FILES = ("model.safetensors", "tokenizer.json")


def changed(before: Tokenizer, after: Tokenizer, texts: Iterable[str]) -> tuple[int, int, int]:
    """Of the words of some texts: how many there are, how many have other pieces now, how many an unknown one."""
    unknown = json.loads(after.to_str())["model"].get("unk_token") or "<unk>"
    total = different = lost = 0
    for text in texts:
        old, new = (_by_word(tokenizer, text) for tokenizer in (before, after))
        total += len(old)
        different += sum(new[word] != pieces for word, pieces in old.items())
        lost += sum(unknown in new[word] and unknown not in pieces for word, pieces in old.items())
    return total, different, lost


def _by_word(tokenizer: Tokenizer, text: str) -> dict[int | None, list[str]]:
    """The pieces of each word, as the tokenizer tells words apart."""
    found: dict[int | None, list[str]] = {}
    encoding = tokenizer.encode(text, add_special_tokens=False)
    for piece, word in zip(encoding.tokens, encoding.word_ids, strict=True):
        found.setdefault(word, []).append(piece)
    return found
