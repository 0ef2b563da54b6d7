"""A student's own vocabulary, and vectors for it from the table of the model that it starts from.

    seen      the pieces of a tokenizer that occur in the training texts: the same tokens for these texts, fewer rows
    words     whole words of the training texts, which need fewer tokens a text
    reduced   a table cut to the student's width by its principal components

All of it follows from the texts and the model alone. A student may also keep the tokenizer as it is.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer

KINDS = ("teacher", "words")
FULL = "full"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ALIKE = {"[PAD]": "<pad>", "[UNK]": "<unk>", "[CLS]": "<s>", "[SEP]": "</s>", "[MASK]": "<mask>"}


@dataclass(frozen=True, eq=False)
class Lexicon:
    """A tokenizer with a vector and a count for each of its tokens."""

    tokenizer: Tokenizer
    table: np.ndarray  # (V, width) float32
    counts: np.ndarray  # (V,) int64, in the training texts
    pad_id: int


def lexicon(
    kind: str,
    source: Tokenizer,
    table: np.ndarray,
    pad_id: int,
    corpus: Callable[[], Iterable[str]],
    most: int,
    width: int,
    lower: bool = True,
) -> Lexicon:
    """The vocabulary of a student.

    Args:
        kind: `teacher`: the pieces of `source` that occur; `words`: words of the texts; `full`: `source` as it is.
        source, table, pad_id: of the model that the student starts from; (V0, H0), any float.
        corpus: gives the training texts, each time it is called.
        most: the most tokens, the frequent ones first; special tokens and single characters come on top.
        width: of the student's vectors.
        lower: whether words are lower-cased; pieces follow their own tokenizer.
    """
    if kind == "teacher":
        tokenizer, kept = seen(source, corpus(), most, pad_id)
        rows, pad = table[kept], int(np.searchsorted(kept, pad_id))
    elif kind == FULL:
        tokenizer, rows, pad = source, table[: source.get_vocab_size()], pad_id  # a table may be padded
    else:
        tokenizer = words(corpus(), most, lower)
        rows, pad = word_vectors(tokenizer, source, table), SPECIAL.index("[PAD]")
    return Lexicon(tokenizer, reduced(rows, width), count(tokenizer, corpus()), pad)


def reduced(table: np.ndarray, width: int) -> np.ndarray:
    """The first principal components of a table's rows: (V, H) -> (V, width) float32.

    With M the table less its mean row and M = U S V', it is M V[:, :width] = U S[:, :width]: of all tables of this
    width the one that keeps most of the rows' distances. Signs are such that the largest entry of each column of V is
    positive. Columns past the table's own width are 0, and are learned.
    """
    centred = table.astype(np.float64) - table.mean(0, dtype=np.float64)
    found = np.zeros((len(table), width), np.float32)
    kept = min(width, table.shape[1])
    found[:, :kept] = centred @ components(table)[:, :kept]
    return found


def components(table: np.ndarray) -> np.ndarray:
    """V of `reduced`: (V, H) -> (H, H) float64, the directions of most variance first."""
    centred = table.astype(np.float64) - table.mean(0, dtype=np.float64)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    vectors = vectors[:, ::-1]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(0)[None], 0)
    return vectors * np.where(largest < 0, -1.0, 1.0)


def count(tokenizer: Tokenizer, corpus: Iterable[str]) -> np.ndarray:
    """How often each token occurs in the texts, special ones aside: (V,) int64."""
    found = np.zeros(1 + max(tokenizer.get_vocab().values(), default=-1), np.int64)
    texts = iter(corpus)
    while part := list(islice(texts, 1000)):
        for encoding in tokenizer.encode_batch_fast(part, add_special_tokens=False):
            np.add.at(found, encoding.ids, 1)
    return found


def seen(source: Tokenizer, corpus: Iterable[str], most: int, pad_id: int) -> tuple[Tokenizer, np.ndarray]:
    """A tokenizer cut down to the pieces that occur, and the old id of each of its tokens, rising.

    Special tokens stay, and the single characters of what occurs, so that most other words can still be spelt. Where
    `most` leaves every piece in, the texts have the same tokens as before.
    """
    counts = count(endless(source), corpus)
    order = np.argsort(-counts, kind="stable")[:most]
    occurring = {token for token, i in source.get_vocab().items() if counts[i]}
    letters = {character for piece in occurring for character in piece}
    return cut(source, {int(i) for i in order if counts[i]} | {pad_id}, letters)


def endless(source: Tokenizer) -> Tokenizer:
    """A copy that neither pads nor cuts."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(source.to_str())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def cut(source: Tokenizer, wanted: Iterable[int], letters: Container[str] | None) -> tuple[Tokenizer, np.ndarray]:
    """A tokenizer of these pieces, and the old id of each of its tokens, rising.

    Special tokens stay too, and what spells other words: single characters, bytes, the halves of pieces that are
    merged. Where every piece of a text is wanted, it has the same tokens as before: a longest piece is still there, so
    are all merges that made it, and the likeliest path; the least likely piece, which sets the price of the unknown,
    stays. (Words that were unknown are the exception: see `inside_unknown`.)

    Args:
        letters: the characters that stay as single pieces; None = all. Of BPE all stay.
    """
    from tokenizers import Tokenizer

    data = json.loads(endless(source).to_str())
    model, pieces = data["model"], source.get_vocab(with_added_tokens=True)
    kept = {int(i) for i in wanted} | set(_special_ids(data, pieces))
    kept |= set(_characters(model, pieces, letters)) | set(_bytes(model, pieces))
    if model["type"] == "BPE":
        _close_under_merges(model, kept)
    if model["type"] == "Unigram":
        kept.add(min(range(len(model["vocab"])), key=lambda i: model["vocab"][i][1]))
    old = np.array(sorted(kept))
    _renumber(data, {int(i): new for new, i in enumerate(old)})
    return Tokenizer.from_str(json.dumps(data)), old


def inside_unknown(source: Tokenizer, corpus: Iterable[str]) -> set[int]:
    """Pieces of WordPiece inside words that it does not know: with these they stay unknown.

    Greedy from the left, it gives up a word where nothing fits any more; without the long piece that led there a
    shorter one might lead further.
    """
    model = json.loads(source.to_str())["model"]
    if model["type"] != "WordPiece":
        return set()
    pieces, prefix, found = model["vocab"], model["continuing_subword_prefix"], set()
    for word in {word for text in corpus for word in _words(source, text)}:
        if len(word) <= model["max_input_chars_per_word"] and [t.value for t in source.model.tokenize(word)] == [
            model["unk_token"]
        ]:
            parts = [(word[i:j], i) for i in range(len(word)) for j in range(i + 1, len(word) + 1)]
            found |= {pieces[p] for part, i in parts if (p := prefix + part if i else part) in pieces}
    return found


def _words(source: Tokenizer, text: str) -> list[str]:
    normal = source.normalizer.normalize_str(text) if source.normalizer else text
    return [word for word, _ in source.pre_tokenizer.pre_tokenize_str(normal)] if source.pre_tokenizer else [normal]


def words(corpus: Iterable[str], most: int, lower: bool) -> Tokenizer:
    """A tokenizer of whole words and punctuation marks, the `most` frequent of the texts; others are [UNK].

    A text is `[CLS] ... [SEP]`, a pair `[CLS] ... [SEP] ... [SEP]` with types 0 and 1, as BERT has them.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    normalizer = normalizers.BertNormalizer(lowercase=lower)
    splitter = pre_tokenizers.BertPreTokenizer()
    found: Counter[str] = Counter()
    for text in corpus:
        found.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    ranked = sorted((word for word in found if word not in SPECIAL), key=lambda word: (-found[word], word))
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *ranked[:most]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def word_vectors(tokenizer: Tokenizer, source: Tokenizer, table: np.ndarray) -> np.ndarray:
    """The mean of the source's pieces for each token: (V0, H) -> (V, H) float64.

    Special tokens take the source's own of the same use; what has no pieces there takes the table's mean row.
    """
    mean = table.mean(0, dtype=np.float64)
    found = np.tile(mean, (tokenizer.get_vocab_size(), 1))
    for word, i in tokenizer.get_vocab().items():
        if word in SPECIAL:
            known = (source.token_to_id(name) for name in (word, ALIKE[word]))
            ids = [special for special in known if special is not None][:1]
        else:
            ids = source.encode(f" {word}", add_special_tokens=False).ids
        if ids:
            found[i] = table[ids].mean(0, dtype=np.float64)
    return found


def spellings(tokenizer: Tokenizer, longest: int) -> np.ndarray:
    """The characters of each token, numbered from 1, as many as fit; 0 where there are no more: (V, longest) int32.

    Marks of a piece's place in its word do not count as characters, and special tokens have none.
    """
    data = json.loads(tokenizer.to_str())
    special = set(_special_ids(data, tokenizer.get_vocab()))
    prefix = data["model"].get("continuing_subword_prefix") or ""
    bare = {
        i: token.removeprefix(prefix).strip("Ġ▁")[:longest]
        for token, i in tokenizer.get_vocab().items()
        if i not in special
    }
    number = {character: i for i, character in enumerate(sorted(set("".join(bare.values()))), 1)}
    found = np.zeros((tokenizer.get_vocab_size(), longest), np.int32)
    for i, token in bare.items():
        found[i, : len(token)] = [number[character] for character in token]
    return found


def settings(tokenizer: Tokenizer, types: bool) -> dict[str, Any]:
    """What tokenizer_config.json says of a tokenizer of ours, so that transformers reads the same one."""
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if types else [])]
    found: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": inputs}
    for name in SPECIAL:
        for spelt in (ALIKE[name], name):
            if tokenizer.token_to_id(spelt) is not None:
                found[f"{name.strip('[]').lower()}_token"] = spelt
    return found


# A tokenizer as its own JSON.


def _special_ids(data: Mapping[str, Any], pieces: Mapping[str, int]) -> Iterator[int]:
    """Added tokens, the unknown one, and what is put around a text."""
    yield from (token["id"] for token in data["added_tokens"])
    model = data["model"]
    if model.get("unk_token") in pieces:
        yield pieces[model["unk_token"]]
    if isinstance(model.get("unk_id"), int):
        yield model["unk_id"]
    for part in _processors(data):
        yield from (i for special in part.get("special_tokens", {}).values() for i in special["ids"])
        yield from (part[key][1] for key in ("sep", "cls") if key in part)


def _characters(model: Mapping[str, Any], pieces: Mapping[str, int], letters: Container[str] | None) -> Iterator[int]:
    """Pieces of one character: all of them for BPE, which has no other way to spell, else those of `letters`."""
    prefix, suffix = (model.get(key) or "" for key in ("continuing_subword_prefix", "end_of_word_suffix"))
    for piece, i in pieces.items():
        bare = piece.removeprefix(prefix).removesuffix(suffix) if len(piece) > 1 else piece
        if len(bare) == 1 and (letters is None or bare in letters or model["type"] == "BPE"):
            yield i


def _bytes(model: Mapping[str, Any], pieces: Mapping[str, int]) -> Iterator[int]:
    """The pieces `<0x00>` to `<0xFF>` of a tokenizer that falls back on bytes."""
    if model.get("byte_fallback"):
        yield from (i for i in map(pieces.get, (f"<0x{byte:02X}>" for byte in range(256))) if i is not None)


def _close_under_merges(model: dict[str, Any], kept: set[int]) -> None:
    """Keep the halves of each piece that is kept, and only the merges that are still possible."""
    vocabulary, prefix = model["vocab"], model.get("continuing_subword_prefix") or ""
    merges = [tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    parts: dict[int, set[int]] = {}
    for left, right in merges:
        whole = vocabulary[left + right.removeprefix(prefix)]
        parts.setdefault(whole, set()).update((vocabulary[left], vocabulary[right]))
    left_over = list(kept)
    while left_over:
        new = parts.get(left_over.pop(), set()) - kept
        kept |= new
        left_over.extend(new)
    whole = (left + right.removeprefix(prefix) for left, right in merges)
    model["merges"] = [list(m) for m, w in zip(merges, whole, strict=True) if {*map(vocabulary.get, (*m, w))} <= kept]


def _renumber(data: dict[str, Any], new: Mapping[int, int]) -> None:
    """Drop what has no new id, and write the new ids wherever a tokenizer's JSON has one."""
    model = data["model"]
    if isinstance(model["vocab"], list):
        model["vocab"] = [entry for i, entry in enumerate(model["vocab"]) if i in new]
        if model.get("unk_id") is not None:
            model["unk_id"] = new[model["unk_id"]]
    else:
        model["vocab"] = {token: new[i] for token, i in model["vocab"].items() if i in new}
    for token in data["added_tokens"]:
        token["id"] = new[token["id"]]
    for part in _processors(data):
        for special in part.get("special_tokens", {}).values():
            special["ids"] = [new[i] for i in special["ids"]]
        for key in ("sep", "cls"):
            if key in part:
                part[key][1] = new[part[key][1]]


def _processors(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The post-processors, one by one."""
    whole = data.get("post_processor") or {}
    parts: list[dict[str, Any]] = whole.get("processors", [whole])
    return parts
