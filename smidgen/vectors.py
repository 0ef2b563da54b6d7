"""Word vectors, from a model's own table of tokens or from a file, and the nearest words by cosine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from smidgen.corpus import SIDES
from smidgen.errors import DataError, ModelError
from smidgen.method import above, one_of
from smidgen.source import Source, tensor_shapes
from smidgen.speech import cut, is_content
from smidgen.tokens import open_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TABLES = ("word_embeddings.weight", "tok_embeddings.weight")  # endings of the names that families give theirs
MOST_WORDS = 100_000  # of a file of vectors, which has the frequent ones first
LEAST = 8  # words of a learned class, in the mean
AHEAD = "a"  # a word is spelt behind another one, as in the middle of a text


def swap_faults(share: float, k: int, copies: int, sides: str, vectors: str) -> Iterator[str]:
    """Faults of how words are replaced by others, for `faults` of a method."""
    if not 0 < share <= 1:
        yield f"share: got {share}, wanted a share above 0, up to 1."
    yield from above("k", k, 0)
    yield from above("copies", copies, 0)
    yield from one_of("sides", sides, SIDES)
    if vectors and not Path(vectors).expanduser().is_file():
        yield f"vectors: got {vectors!r}, wanted a file in the text format of word2vec or GloVe."


@dataclass(frozen=True, eq=False)
class Vectors:
    """n words and their vectors, (n, d) float32, each of length 1."""

    words: tuple[str, ...]
    table: np.ndarray


def nearest(asked: Vectors, among: Vectors, k: int, at_once: int = 256) -> dict[str, tuple[str, ...]]:
    """The k nearest words to each word by cosine, nearest first; spellings of the word itself are passed over."""
    small = np.array([word.lower() for word in among.words])
    spare = 4  # the word itself, and other spellings of it
    found: dict[str, tuple[str, ...]] = {}
    for start in range(0, len(asked.words), at_once):
        part = slice(start, start + at_once)
        cosines = asked.table[part] @ among.table.T
        take = min(k + spare, len(among.words))
        best = np.argpartition(-cosines, take - 1, axis=1)[:, :take]
        for word, row, columns in zip(asked.words[part], cosines, best, strict=True):
            ordered = columns[np.lexsort((columns, -row[columns]))]
            found[word] = tuple(among.words[i] for i in ordered if small[i] != word.lower())[:k]
    return found


def neighbours(words: Iterable[str], source: Source, file: str, k: int) -> dict[str, tuple[str, ...]]:
    """The k nearest content words to each content word among `words`, by a file of vectors or the model's own table.

    With a file, words that it has not are left out; with a model, every word has a vector, the mean of its pieces'.
    """
    asked = sorted({word for word in words if is_content(word)})
    if file:
        table = read_vectors(Path(file).expanduser())
        rows = {word: i for i, word in enumerate(table.words)}
        at = {word: rows.get(word, rows.get(word.lower(), -1)) for word in asked}
        known = [word for word in asked if at[word] >= 0]
        asked_vectors = Vectors(tuple(known), table.table[[at[word] for word in known]])
        among = [i for i, word in enumerate(table.words) if is_content(word)]
        return nearest(asked_vectors, Vectors(tuple(table.words[i] for i in among), table.table[among]), k)
    others = {word.lower(): word for word in (*asked, *whole_words(source).values()) if is_content(word)}
    return nearest(model_vectors(source, asked), model_vectors(source, sorted(others.values())), k) if asked else {}


def learned_classes(source: Source, texts: Iterable[str], seed: int) -> dict[str, str]:
    """Word -> class: k-means over the words of a corpus by the model's own table, about LEAST words or more a class.

    Only words of letters have a class.
    """
    from sklearn.cluster import KMeans

    words = sorted({word for text in texts for word in cut(text).words if word.isalpha()})
    if not words:
        return {}
    found = KMeans(max(1, min(64, len(words) // LEAST)), n_init=1, random_state=seed % 2**32)
    classes = found.fit_predict(model_vectors(source, words).table)
    return {word: f"class {int(i)}" for word, i in zip(words, classes, strict=True)}


# From a model.


def has_table(source: Source) -> bool:
    """Is there a table of token embeddings by a name that is known?"""
    file = source.path / "model.safetensors"
    return file.is_file() and any(name.endswith(TABLES) for name in tensor_shapes(file))


def model_vectors(source: Source, words: Sequence[str]) -> Vectors:
    """The mean of the pieces' rows in the model's input embeddings, for each word."""
    pieces = spell(open_tokenizer(source.path), words)
    table = _table(source)
    lengths = np.array([len(ids) for ids in pieces])
    flat = np.fromiter((i for ids in pieces for i in ids), np.int64)
    sums = np.add.reduceat(table[flat], np.cumsum([0, *lengths[:-1]]), axis=0) if len(words) else table[:0]
    return Vectors(tuple(words), _unit(sums / lengths[:, None]))


def spell(tokenizer: Tokenizer, words: Sequence[str]) -> list[list[int]]:
    """The ids of each word in the middle of a text; that of the unknown token where it cannot be spelt."""
    skip = len(tokenizer.encode(AHEAD, add_special_tokens=False).ids)
    found = tokenizer.encode_batch([f"{AHEAD} {word}" for word in words], add_special_tokens=False)
    return [encoded.ids[skip:] or [0] for encoded in found]


def whole_words(source: Source) -> dict[int, str]:
    """Token ids that are a whole word by themselves, and the word."""
    tokenizer = open_tokenizer(source.path)
    ids = range(tokenizer.get_vocab_size())
    words = [word.strip() for word in tokenizer.decode_batch([[i] for i in ids], skip_special_tokens=True)]
    likely = [i for i in ids if words[i].isalpha()]
    spelt = spell(tokenizer, [words[i] for i in likely])
    return {i: words[i] for i, pieces in zip(likely, spelt, strict=True) if pieces == [i]}


def _table(source: Source) -> np.ndarray:
    from safetensors import safe_open

    if not has_table(source):
        raise ModelError(f"{source.reference}: no table of token embeddings in it. Give vectors: FILE.")
    with safe_open(source.path / "model.safetensors", "pt") as file:
        name = next(name for name in sorted(file.keys()) if name.endswith(TABLES))
        table: np.ndarray = file.get_tensor(name).float().numpy()
    return table


# From a file.


def read_vectors(path: Path) -> Vectors:
    """The first MOST_WORDS words of a file in the text format of word2vec (with a head line) or GloVe (without).

    Raises:
        DataError: it is not that; the message names the row.
    """
    words: list[str] = []
    rows: list[np.ndarray] = []
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            parts = raw.rstrip().split(b" ")
            if number == 1 and len(parts) == 2:
                continue
            width = len(rows[0]) if rows else len(parts) - 1
            try:
                words.append(b" ".join(parts[:-width]).decode("utf-8"))
                rows.append(np.array(parts[-width:], dtype=np.float32))
            except ValueError as error:
                raise DataError(_not_vectors(path, number, raw)) from error
            if not words[-1] or not width or len(rows[-1]) != width or not np.isfinite(rows[-1]).all():
                raise DataError(_not_vectors(path, number, raw))
            if len(words) == MOST_WORDS:
                break
    if not words:
        raise DataError(f"{path} is empty. Give a file of word vectors: a word and its numbers a line.")
    return Vectors(tuple(words), _unit(np.stack(rows)))


def _not_vectors(path: Path, row: int, raw: bytes) -> str:
    got = raw[:40].decode("utf-8", "backslashreplace").strip()
    return f"{path}, row {row}: got {got!r}, wanted a word and as many numbers as the row before it, as GloVe has them."


def _unit(table: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays one."""
    lengths = np.linalg.norm(table, axis=1, keepdims=True)
    return np.asarray(table / np.where(lengths > 0, lengths, 1), np.float32)
