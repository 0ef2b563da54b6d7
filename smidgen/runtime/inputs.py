"""What a caller may give, as rows for the tokenizer.

`numbers` are what the entries are called in errors, where they are some of many that the caller gave; None = 0, 1, ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from smidgen.errors import InputError

Text = str | Mapping[str, str]  # a mapping has "text" and may have "text_pair"
Row = str | tuple[str, str]


def as_rows(
    texts: Text | Sequence[Text], pairs: Sequence[str] | None = None, numbers: Sequence[int] | None = None
) -> list[Row]:
    """Texts, or pairs of texts, as the tokenizer takes them.

    As in transformers, an empty `text_pair` of a mapping is none; an empty text in `pairs` makes a pair.

    Raises:
        InputError: an entry of another type, or another number of pairs than of texts.
    """
    if pairs is not None:
        if isinstance(texts, str | Mapping) or isinstance(pairs, str) or len(pairs) != len(texts):
            raise InputError(
                "pairs: wanted a list with one second text for each text; for one pair give two lists of 1."
            )
        called = numbers or range(len(texts))
        return [_pair(i, first, second) for i, first, second in zip(called, texts, pairs, strict=True)]
    listed = [texts] if isinstance(texts, str | Mapping) else texts
    if not isinstance(listed, Sequence) and not hasattr(listed, "__len__"):
        raise InputError(
            f"got {type(texts).__name__}, wanted a text, a list of texts, or {{'text': ..., 'text_pair': ...}}."
        )
    called = numbers or range(len(listed))
    return [text if type(text) is str else _row(i, text) for i, text in zip(called, listed, strict=True)]


def as_words(texts: Sequence[Any], numbers: Sequence[int] | None = None) -> tuple[list[str], bool]:
    """Texts to tag, and whether their words are given: lists of words are joined by single spaces.

    Raises:
        InputError: an entry of another type, or texts among lists of words.
    """
    if not isinstance(texts, Sequence):
        raise InputError(f"got {type(texts).__name__}, wanted a text, a list of texts, or lists of words.")
    given = bool(texts) and not isinstance(texts[0], str)
    found, called = [], numbers or range(len(texts))
    for i, text in zip(called, texts, strict=True):
        if given and isinstance(text, Sequence) and not isinstance(text, str) and all(type(w) is str for w in text):
            found.append(" ".join("\u00a0".join(word.split()) or "\u00a0" for word in text))
        elif not given and isinstance(text, str):
            found.append(str(text))
        else:
            wanted = f"a list of words, as text {called[0]} is" if given else "a string"
            raise InputError(f"text {i}: got {type(text).__name__}, wanted {wanted}.")
    refuse_halves(found, called)
    return found, given


def as_questions(
    texts: Any, pairs: Sequence[str] | None, numbers: Sequence[int] | None = None
) -> tuple[list[str], list[str]]:
    """Questions and their contexts.

    Raises:
        InputError: a question without a context, or an entry of another type.
    """
    wanted = "wanted questions and contexts as two lists of strings, or {'question': ..., 'context': ...}."
    if pairs is None:
        listed = [texts] if isinstance(texts, Mapping) else texts
        if (
            isinstance(texts, str)
            or not isinstance(listed, Sequence)
            or not all(isinstance(t, Mapping) and set(t) == {"question", "context"} for t in listed)
        ):
            raise InputError(f"an answer is looked for in a context; {wanted}")
        return as_questions([t["question"] for t in listed], [t["context"] for t in listed], numbers)
    both = ([texts], [pairs]) if isinstance(texts, str) and isinstance(pairs, str) else (texts, pairs)
    if not all(isinstance(column, Sequence) for column in both):
        raise InputError(f"got {type(texts).__name__} and {type(pairs).__name__}; {wanted}")
    found = [list(column) if not isinstance(column, str) else [column] for column in both]
    if len(found[0]) != len(found[1]):
        raise InputError(f"got {len(found[0])} questions and {len(found[1])} contexts; {wanted}")
    called = numbers or range(len(found[0]))
    for i, text in zip([*called, *called], [*found[0], *found[1]], strict=True):
        if not isinstance(text, str):
            raise InputError(f"entry {i}: got {type(text).__name__}; {wanted}")
    for column in found:
        refuse_halves(column, called)
    return found[0], found[1]


def refuse_halves(rows: Sequence[Row], numbers: Sequence[int]) -> None:
    """Raise InputError for the first row that is not valid Unicode, by its number."""
    for i, row in zip(numbers, rows, strict=True):
        try:
            "".join(row).encode("utf-8")
        except UnicodeEncodeError as error:
            found = f"U+{ord(error.object[error.start]):04X}"
            raise InputError(
                f"text {i}: holds {found}, half of a character. Read the file as UTF-8, or drop it first."
            ) from None


def _pair(i: int, first: object, second: object) -> Row:
    for part in (first, second):
        if not isinstance(part, str):
            raise InputError(f"pair {i}: got {type(part).__name__}, wanted two strings.")
    return str(first), str(second)


def _row(i: int, text: object) -> Row:
    if isinstance(text, str):
        return str(text)
    if not isinstance(text, Mapping):
        raise InputError(f"text {i}: got {type(text).__name__}, wanted a string or {{'text': ..., 'text_pair': ...}}.")
    if "text" not in text or set(text) - {"text", "text_pair"}:
        raise InputError(f"text {i}: got the keys {sorted(map(str, text))}, wanted 'text' and perhaps 'text_pair'.")
    return _row(i, text["text"]) if text.get("text_pair") in (None, "") else _pair(i, text["text"], text["text_pair"])
