"""Tables into texts and names of labels: which column is which, and what a cell may hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smidgen.errors import DataError, did_you_mean
from smidgen.tables import Table
from smidgen.tasks.several import SEPARATOR
from smidgen.tasks.tag import broken

# The first name of each wins over the others.
TEXT = ("text", "sentence", "sentence1", "premise", "question1", "review", "content", "tweet", "comment", "utterance")
TEXT_PAIR = ("text_pair", "text2", "sentence2", "hypothesis", "question2")
TASK = ("task", "task_name", "dataset")
LABEL = ("label", "labels", "class", "category", "sentiment", "target", "intent")
TOKENS = ("tokens", "words")
TAGS = ("tags", "ner_tags", "ner", "labels", "pos_tags", "pos")
QUESTION = ("question", "query")
CONTEXT = ("context", "passage", "paragraph", "document")
ANSWERS = ("answers", "answer")
FLAGS = {
    **dict.fromkeys(("tokens", "tokens or text", "question"), "text"),
    **dict.fromkeys(("tags", "answers"), "label"),
    "context": "text_pair",
}

INTEGRAL = re.compile(r"(-?(?:0|[1-9]\d*))(?:\.0+)?")  # 7, -7, 7.0; not 007, which is a word
SURROGATE = re.compile("[\ud800-\udfff]")
MEND = "Fill it in or remove the row."
LISTS = "Lists come from jsonl, parquet or conll files."


@dataclass(frozen=True)
class Columns:
    """The names of the columns; None finds one by the usual names, and `text_pair=""` takes none.

    For tagging `text` holds the words and `label` the tags; for answering `text` holds the question, `text_pair` the
    context and `label` the answers. `task` is read where a file has rows of several tasks.
    """

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    task: str | None = None


USUAL = Columns()


def texts_and_pairs(
    table: Table, columns: Columns, mixed: bool = False
) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """The texts of the rows, and their pairs where there is such a column; DataError for an empty one.

    Args:
        mixed: rows may be without a second text, which is then ""; where all are, there are no pairs.
    """
    text = _find(table, "text", columns.text, TEXT)
    if text is None:
        raise _absent(table, "text", TEXT)
    usual = [name for name in TEXT_PAIR if name != text.lower()]
    pair = None if columns.text_pair == "" else _find(table, "text_pair", columns.text_pair, usual)
    texts = _texts(table, text)
    if pair is None:
        return texts, None
    if not mixed:
        return texts, _texts(table, pair)
    seconds = _seconds(table, pair)
    return texts, seconds if any(seconds) else None


def bare_texts(table: Table, columns: Columns) -> tuple[str, ...]:
    """The texts of a corpus: nothing else is read, and blank ones, as between paragraphs, are passed over."""
    text = _need(table, "text", columns.text, TEXT)
    wanted = [i for i, cell in enumerate(table.columns[text]) if not isinstance(cell, str) or cell.strip()]
    cells = {text: [table.columns[text][i] for i in wanted]}
    return _texts(Table(table.source, cells, [table.rows[i] for i in wanted]), text)


def label_names(table: Table, columns: Columns, multi_label: bool | None) -> tuple[list[tuple[str, ...]], bool]:
    """The names of the labels of each row, as they are written, and whether a row may have several.

    Several are a list, or, with `multi_label` given as True, a string cut at `|`, or at `,` in a column without `|`.
    None finds out: several where the cells are lists. DataError for a missing label, and for what is not a name.
    """
    column = _find(table, "label", columns.label, LABEL)
    if column is None:
        raise _absent(table, "label", LABEL)
    cells = table.columns[column]
    lists = _are_lists(table, column)
    if lists and multi_label is False:
        raise table.fault(
            0,
            f"the column {column!r} holds a list of labels, wanted one label a text. "
            "Write one, or type --multi-label for a model that gives a text several.",
        )
    if multi_label and not lists:
        cells = _cut(cells)
    rows = (cell if isinstance(cell, list | tuple) else (cell,) for cell in cells)
    names = [tuple(_name(table, i, column, each) for each in row) for i, row in enumerate(rows)]
    return names, lists or bool(multi_label)


def task_names(table: Table, columns: Columns) -> list[str]:
    """The name of the task of each row; DataError for one that is missing."""
    column = _need(table, "task", columns.task, TASK)
    for i, cell in enumerate(table.columns[column]):
        if cell is None or cell != cell or not str(cell).strip():
            raise table.fault(i, f"the column {column!r} has no task, got {cell!r}. {MEND}")
    return [str(cell).strip() for cell in table.columns[column]]


def tasks_and_labels(table: Table, columns: Columns) -> list[tuple[str, str]]:
    """The names of the task and of the label of each row; whole numbers as 1, not 1.0.

    DataError for one that is missing or has the separator in it.
    """
    tasks = task_names(table, columns)
    labels, _ = label_names(table, columns, False)
    found = []
    for i, (task, (name,)) in enumerate(zip(tasks, labels, strict=True)):
        label = str(value(name)) if are_integral([name]) else name
        for what, word in (("task", task), ("label", label)):
            if SEPARATOR in word:
                raise table.fault(
                    i,
                    f"the {what} {word!r} has {SEPARATOR!r} in it, which stands between task and label in the names "
                    "of a model's answers. Write another sign.",
                )
        found.append((task, label))
    return found


def tagged(table: Table, columns: Columns) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The rows' words, joined by single spaces, and the names of their tags.

    DataError for a row whose words and tags are not lists of text, not as many, or not BIO.
    """
    tokens = _need(table, "tokens", columns.text, TOKENS)
    tags = _need(table, "tags", columns.label, TAGS)
    words = [_words(table, i, tokens, cell) for i, cell in enumerate(table.columns[tokens])]
    return tuple(map(" ".join, words)), [_tags(table, i, tags, row) for i, row in enumerate(words)]


def untagged(table: Table, columns: Columns) -> tuple[tuple[str, ...], bool]:
    """Rows without tags: their words joined by single spaces, and True; or plain texts as they are, and False."""
    found = _find(table, "tokens", columns.text, TOKENS) or _find(table, "text", None, TEXT)
    if found is None:
        raise _absent(table, "tokens or text", (*TOKENS, *TEXT))
    cells = table.columns[found]
    if not isinstance(cells[0], list | tuple):
        return _texts(table, found), False
    return tuple(" ".join(_words(table, i, found, cell)) for i, cell in enumerate(cells)), True


def asked(
    table: Table, columns: Columns, labelled: bool = True
) -> tuple[tuple[str, ...], tuple[str, ...], list[tuple[tuple[str, int], ...]]]:
    """Questions, contexts, and for each row its accepted answers: (text, first character), none for no answer.

    DataError for an empty text, an answer that is not in its context at its offset, and answers of another form.
    """
    question = _need(table, "question", columns.text, QUESTION)
    context = _need(table, "context", columns.text_pair, CONTEXT)
    questions, contexts = _texts(table, question), _texts(table, context)
    if not labelled:
        return questions, contexts, [()] * len(table)
    column = _need(table, "answers", columns.label, ANSWERS)
    cells = enumerate(zip(table.columns[column], contexts, strict=True))
    return questions, contexts, [_accepted(table, i, column, cell, text) for i, (cell, text) in cells]


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """The different names, sorted; where all are whole numbers, by value, and "1.0" is "1"."""
    known = set(names)
    if are_integral(known):
        return tuple(map(str, sorted({value(name) for name in known})))
    return tuple(sorted(known))


def are_integral(names: Iterable[str]) -> bool:
    """Whether all names are whole numbers, such as 1 or 1.0."""
    return all(INTEGRAL.fullmatch(name) for name in names)


def value(name: str) -> int:
    """The whole number that an integral name stands for."""
    return int(name.partition(".")[0])


def shown(names: Sequence[str], most: int = 12) -> str:
    """The names with commas, cut after `most`."""
    more = f" ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _need(table: Table, what: str, given: str | None, usual: Sequence[str]) -> str:
    found = _find(table, what, given, usual)
    if found is None:
        raise _absent(table, what, usual)
    return found


def _words(table: Table, row: int, column: str, cell: Any) -> list[str]:
    if not isinstance(cell, list | tuple):
        raise table.fault(row, f"the column {column!r} holds {str(cell)[:40]!r}, wanted a list of words. {LISTS}")
    if not cell:
        raise table.fault(row, f"the column {column!r} holds an empty list, wanted a list of words. {MEND}")
    for word in cell:
        if not isinstance(word, str) or not word.strip() or SURROGATE.search(word):
            raise table.fault(
                row, f"the column {column!r} has the word {word!r}, wanted a text that is not empty. {MEND}"
            )
    return ["\u00a0".join(word.split()) for word in cell]


def _tags(table: Table, row: int, column: str, words: Sequence[str]) -> tuple[str, ...]:
    cell = table.columns[column][row]
    if not isinstance(cell, list | tuple):
        raise table.fault(row, f"the column {column!r} holds {str(cell)[:40]!r}, wanted a list of tags. {LISTS}")
    if len(cell) != len(words):
        raise table.fault(
            row, f"got {len(words)} words and {len(cell)} tags, wanted a tag for each word. Correct or remove the row."
        )
    names = tuple(_name(table, row, column, tag) for tag in cell)
    at = broken(names)
    if at is not None:
        before = "nothing" if at == 0 else f"{names[at - 1]!r}"
        raise table.fault(
            row,
            f"the tag {names[at]!r} of word {at + 1} ({words[at]!r}) comes after {before}, so it continues no entity. "
            f"Write 'B-{names[at][2:]}' where an entity begins{_breaks(table, column)}.",
        )
    return names


def _breaks(table: Table, column: str) -> str:
    """How many rows break BIO, where it is more than one: by hand, or is the whole file in another style?"""
    rows = (tuple(map(str, cell)) for cell in table.columns[column] if isinstance(cell, list | tuple))
    count = sum(broken(row) is not None for row in rows)
    return f", here and in {count - 1:,} more rows" if count > 2 else ", here and in one more row" if count == 2 else ""


def _accepted(table: Table, row: int, column: str, cell: Any, context: str) -> tuple[tuple[str, int], ...]:
    texts, starts = (cell.get("text"), cell.get("answer_start")) if isinstance(cell, Mapping) else (None, None)
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise table.fault(
            row,
            f"the column {column!r} holds {str(cell)[:60]}, wanted "
            '{"text": [...], "answer_start": [...]}, as many of each; both empty for no answer.',
        )
    found = []
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str) or not isinstance(start, int) or not text.strip():
            raise table.fault(row, f"the answer {text!r} at {start!r}: wanted a text and a whole number. {MEND}")
        if context[start : start + len(text)] != text or start < 0:
            places = [found.start() for found in re.finditer(re.escape(text), context)]
            nearest = min(places, key=lambda place: abs(place - start), default=None)
            hint = (
                f" It is at {nearest}: correct answer_start."
                if nearest is not None
                else " It is nowhere in the context. Correct or remove the row."
            )
            got = context[max(start, 0) : max(start, 0) + len(text)]
            raise table.fault(
                row, f"the answer {text[:40]!r} is not in its context at {start}, there is {got[:40]!r}.{hint}"
            )
        found.append((text, start))
    return tuple(found)


def _find(table: Table, what: str, given: str | None, usual: Sequence[str]) -> str | None:
    names = list(table.columns)
    wanted = f"Type {_flag(what)} NAME with one of them."
    if given:
        if given in table.columns:
            return given
        hint = did_you_mean(given, names)
        raise DataError(f"{table.source}: no column {given!r}.{hint} Its columns: {shown(names)}. {wanted}")
    found = [name for name in names if name.lower() in usual]
    first = [name for name in found if name.lower() == usual[0]] or found
    if len(first) > 1:
        raise DataError(f"{table.source}: the {what} column may be any of {', '.join(first)}. {wanted}")
    return first[0] if first else None


def _absent(table: Table, what: str, usual: Sequence[str]) -> DataError:
    names = list(table.columns)
    if len(names) == 1 and ";" in names[0]:
        return DataError(
            f"{table.source}: its header is {names[0]!r}, which seems to be separated by ';', wanted ','. "
            "Save it with commas, or with tabs as .tsv."
        )
    other = _other_task({name.lower() for name in names}, what)
    if other:
        return DataError(
            f"{table.source}: no {what} column. Its columns: {shown(names)}; they look like data for --task {other}."
        )
    return DataError(
        f"{table.source}: no {what} column. Its columns: {shown(names)}; wanted one of {', '.join(usual)}. "
        f"Type {_flag(what)} NAME; if the first line is data, put a header over it."
    )


def _other_task(names: set[str], what: str) -> str:
    """The task that the columns look like, where it is another one than was asked for; else ""."""
    kinds = {"tag": (TOKENS, TAGS), "answer": (QUESTION, CONTEXT), "classify": (TEXT, LABEL)}
    asked = {"tokens": "tag", "question": "answer", "text": "classify"}.get(what)
    found = next((kind for kind, (one, two) in kinds.items() if names & set(one) and names & set(two)), asked)
    return found if asked and found and found != asked else ""


def _flag(what: str) -> str:
    return f"--{FLAGS.get(what, what).replace('_', '-')}-column"


def _texts(table: Table, column: str) -> tuple[str, ...]:
    for i, cell in enumerate(table.columns[column]):
        fault = _text_fault(cell)
        if fault:
            raise table.fault(i, f"the column {column!r} {fault}")
    return tuple(table.columns[column])


def _seconds(table: Table, column: str) -> tuple[str, ...]:
    """Second texts of rows of which some may have none: "" there."""
    blank = [
        cell is None or cell != cell or (isinstance(cell, str) and not cell.strip()) for cell in table.columns[column]
    ]
    for i, cell in enumerate(table.columns[column]):
        fault = "" if blank[i] else _text_fault(cell)
        if fault:
            raise table.fault(i, f"the column {column!r} {fault}")
    return tuple("" if none else cell for cell, none in zip(table.columns[column], blank, strict=True))


def _text_fault(cell: Any) -> str:
    if cell is None or cell != cell:
        return f"has no value (null or NaN), wanted a text. {MEND}"
    if not isinstance(cell, str):
        got = f"{str(cell)[:40]} ({type(cell).__name__})"
        return f"holds {got}, wanted a text. Put it in quotes, or name another column with --text-column NAME."
    if not cell.strip():
        return f"is empty, wanted a text. {MEND}"
    if SURROGATE.search(cell):
        return f"holds half of a surrogate pair (\\ud800 to \\udfff), wanted a text. {MEND}"
    return ""


def _are_lists(table: Table, column: str) -> bool:
    """Whether the labels are lists; DataError where some are and some are not. A missing label may be either."""
    first: dict[bool, int] = {}
    for i, cell in enumerate(table.columns[column]):
        if cell is not None:
            first.setdefault(isinstance(cell, list | tuple), i)
    if len(first) < 2:
        return True in first
    (_, before), (is_list, row) = sorted(first.items(), key=lambda item: item[1])
    kinds = ("one label", "a list of labels")
    raise table.fault(
        row,
        f"the column {column!r} holds {kinds[is_list]}, wanted {kinds[not is_list]} as in row {table.rows[before]}. "
        "Write every row the same way.",
    )


def _cut(cells: Sequence[Any]) -> list[Any]:
    separator = "|" if any("|" in cell for cell in cells if isinstance(cell, str)) else ","
    return [
        [part for part in cell.split(separator) if part.strip()] if isinstance(cell, str) else cell for cell in cells
    ]


def _name(table: Table, row: int, column: str, cell: Any) -> str:
    if cell is None or cell != cell or str(cell).strip().lower() in ("", "nan"):
        got = repr(cell).strip()
        raise table.fault(row, f"the column {column!r} has no label, got {got}. {MEND}")
    if not isinstance(cell, str | int | float) or (isinstance(cell, float) and not cell.is_integer()):
        raise table.fault(
            row,
            f"the column {column!r} holds {str(cell)[:40]}, which is no class, wanted a word or a whole number. "
            "Write one, or name another column with --label-column NAME.",
        )
    return str(cell).strip()
