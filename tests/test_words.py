"""Ids from a dictionary of words are the tokenizer's own ids, or it is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from folders import write_tokenizer
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from smidgen.errors import InputError
from smidgen.runtime.tokenizer import TextEncoder
from smidgen.runtime.words import LONGEST, WordEncoder, by_words

PLAIN = ("the", "film", "filmic", "a", "Good", "x" * 30, "it's", "u.s.", "-", "_", "42", "3.5%", "#", "##a", " ", "  ")
ODD = ("\n", "\t", "\r", "\x00", "\x0b", "\x1f", "\x7f", "[MASK]", "[mask]", "[", "]")
WIDE = ("\u00e9", "e\u0301", "\u4e2d", "\u200b", "\u00a0", "\U0001f642")
PIECES = st.sampled_from(PLAIN + ODD + WIDE)
LIMIT = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("words")
    write_tokenizer(root)
    (root / "config.json").write_text(json.dumps({"pad_token_id": 1, "max_position_embeddings": LIMIT}))
    return root


@pytest.fixture(scope="module")
def stock(folder: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LIMIT)
    return tokenizer


@settings(max_examples=400, deadline=None)
@given(text=st.lists(PIECES, max_size=20).map("".join) | st.text(max_size=40))
@example(text="a" * LONGEST)
@example(text="a" * (LONGEST + 1))
@example(text="the film " * 200)
def test_ids_equal_the_tokenizers(text: str, folder: Path, stock: Tokenizer) -> None:
    encoder = TextEncoder(folder)
    assert encoder.words is not None
    for _ in range(2):  # the second time from memory
        ((ids, types),) = encoder.ids([text])
        assert ids == stock.encode(text).ids
        assert not any(types or ())


def test_plain_text_is_not_asked_for_twice(folder: Path) -> None:
    encoder = TextEncoder(folder)
    assert encoder.words is not None
    first = encoder.words("the film was good, the end.")
    encoder.words.tokenizer = None  # type: ignore[assignment]
    assert encoder.words("the film was good, the end.") == first


@pytest.mark.parametrize("text", ["caf\u00e9", "a\x00b", "so [MASK] good", "x" * (LONGEST + 1)])
def test_what_is_left_to_the_tokenizer(text: str, folder: Path) -> None:
    encoder = TextEncoder(folder)
    assert encoder.words is not None
    assert encoder.words(text) is None


def test_memory_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smidgen.runtime.words.MOST", 3)
    words = WordEncoder(Tokenizer.from_file(str(folder / "tokenizer.json")), LIMIT)
    for text in ("the film was good", "a book is dull"):
        words(text)
        assert len(words.known) <= 3


def test_rows_keep_their_order_and_their_numbers(folder: Path, stock: Tokenizer) -> None:
    encoder = TextEncoder(folder)
    rows: list[Any] = ["the film", "caf\u00e9", ("the film", "a book"), "was good"]
    found = encoder.ids(rows)
    assert [ids for ids, _ in found] == [stock.encode(*([row] if isinstance(row, str) else row)).ids for row in rows]
    assert found[0][1] is None and found[2][1] == stock.encode("the film", "a book").type_ids
    with pytest.raises(InputError, match=r"text 2: holds U\+D800, half of a character"):
        encoder.ids(["the film", "caf\u00e9", "\ud800"])


def test_other_tokenizers_are_left_alone() -> None:
    bert = {"normalizer": {"type": "BertNormalizer", "clean_text": True}, "pre_tokenizer": {"type": "BertPreTokenizer"}}
    assert by_words({**bert, "model": {"type": "WordPiece"}})
    assert not by_words({**bert, "model": {"type": "Unigram"}})
    assert not by_words({**bert, "model": {"type": "WordPiece"}, "pre_tokenizer": {"type": "ByteLevel"}})
    assert not by_words({**bert, "model": {"type": "WordPiece"}, "normalizer": {"type": "NFKC"}})
