"""Labelled text in: files or Hub ids into checked splits, with fingerprints.

load_data    train, dev, test and unlabeled -> Data: the task found out, every fault an error that names its row
read_split   one labelled file for a known task
read_texts   texts to predict
read_mixed   the same, of rows that each name their task
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from smidgen.cells import (
    USUAL,
    are_integral,
    asked,
    bare_texts,
    in_order,
    label_names,
    shown,
    tagged,
    task_names,
    tasks_and_labels,
    texts_and_pairs,
    untagged,
    value,
)
from smidgen.cells import Columns as Columns
from smidgen.checks import Check, after, before
from smidgen.encoded import objects
from smidgen.errors import DataError, did_you_mean
from smidgen.splits import Split as Split
from smidgen.splits import take_dev
from smidgen.tables import Table, decode, read_table, read_text
from smidgen.tasks import Answer, Classify, MaskLanguage, Several, Tag, Task
from smidgen.tasks.several import SEPARATOR


@dataclass(frozen=True, eq=False)
class Data:
    """A task and its splits. `checks` are for the user to know; nothing in them stops a run."""

    task: Task
    train: Split
    dev: Split
    test: Split | None = None
    unlabeled: Split | None = None
    checks: tuple[Check, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """The checks in words."""
        return tuple(check.words for check in self.checks)

    @property
    def fingerprint(self) -> str:
        """64 hex digits over the labels and every split. What reads only train should use the one of that split."""
        splits = (self.train, self.dev, self.test, self.unlabeled)
        parts = (
            self.task.name,
            *self.task.labels,
            str(self.task.multi_label),
            *(split.fingerprint if split else "" for split in splits),
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()


def load_data(
    train: str,
    dev: str | None = None,
    test: str | None = None,
    unlabeled: str | None = None,
    columns: Columns = USUAL,
    labels: Sequence[str] | None = None,
    multi_label: bool | None = None,
    metric: str | None = None,
    seed: int = 0,
    task: str = "classify",
) -> Data:
    """Read and check the splits of one task.

    Args:
        task: `classify`; `several`, classifications of which each row names its own; `tag`, with a list of words and
            one of tags a row; `answer`, with questions, contexts and accepted answers; or `mask_language`, with bare
            texts.
        train, dev, test, unlabeled: paths, or Hub ids `org/name@config:split`. No `dev`: a seeded part of train.
        labels: the classes in the order of a fine-tuned model's config; None takes those of train, sorted.
        multi_label: whether a text may have several labels; None finds out: yes where train has lists of labels.
        metric: one of the task's METRICS; None takes its own.

    Raises DataError for the first fault found; it names the file and the row or column, and what to do.
    """
    _refuse_same_source({"train": train, "dev": dev, "test": test})
    table = read_table(train, "train")
    found = _task(task, table, columns, labels, multi_label, metric or "")
    by_id = labels is not None
    whole = _split(table, "train", found, columns, by_id)

    def read(source: str | None, name: str) -> Split | None:
        if not source:
            return None
        split = _split(read_table(source, name), name, found, columns, by_id, labelled=name != "unlabeled")
        if not isinstance(found, Several):
            _refuse_lone_pairs(whole, split)
        return split

    held_out, final, more = read(dev, "dev"), read(test, "test"), read(unlabeled, "unlabeled")
    _refuse_same_rows([whole, held_out, final])
    told = list(before(found, whole, held_out, final, more))
    left = whole
    if held_out is None:
        left, held_out = take_dev(whole, seed, every=isinstance(found, Several))
    return Data(found, left, held_out, final, more, (*told, *after(found, whole, held_out, final)))


def read_split(path: str, name: str, task: Task, columns: Columns = USUAL) -> Split:
    """A labelled file for a known task; its labels are the task's names, or their ids."""
    return _split(read_table(path, name), name, task, columns, by_id=True)


def read_texts(
    source: str | Path | TextIO, columns: Columns = USUAL, task: str = "classify"
) -> tuple[tuple[Any, ...], tuple[str, ...] | None]:
    """Texts to predict, and their pairs: from a file, a Hub id, or one a line from a stream ("-": standard input).

    To `tag`, texts or lists of words; to `answer`, questions and their contexts; for `several` tasks, "" where a text
    has no pair.
    """
    if not isinstance(source, str | Path):
        table = _read_stream(source)
    else:
        table = _read_stream(sys.stdin) if str(source) == "-" else read_table(str(source), "test")
    return _unlabelled(table, columns, task)


def read_mixed(
    source: str, columns: Columns, tasks: Mapping[str, str]
) -> tuple[list[Any], list[str | None], list[str]]:
    """Texts to predict, the pair of each or None, and its task, from a file whose rows each name one of `tasks`, which
    are kinds by name. Of a task's rows the columns count that hold something."""
    table = read_table(source, "test")
    names = task_names(table, columns)
    texts: list[Any] = [None] * len(table)
    pairs: list[str | None] = [None] * len(table)
    for name in dict.fromkeys(names):
        at = [i for i, one in enumerate(names) if one == name]
        if name not in tasks:
            raise _unknown(table, at[0], "task", name, tuple(tasks))
        cells = {column: [values[i] for i in at] for column, values in table.columns.items()}
        filled = {column: values for column, values in cells.items() if any(v not in (None, "") for v in values)}
        found, seconds = _unlabelled(Table(source, filled, [table.rows[i] for i in at]), columns, tasks[name])
        for i, row in enumerate(at):
            texts[row], pairs[row] = found[i], None if seconds is None else seconds[i]
    return texts, pairs, names


def _unlabelled(table: Table, columns: Columns, task: str) -> tuple[tuple[Any, ...], tuple[str, ...] | None]:
    if task == "tag":
        texts, given = untagged(table, columns)
        return tuple(text.split(" ") for text in texts) if given else texts, None
    if task == "answer":
        return asked(table, columns, labelled=False)[:2]
    return texts_and_pairs(table, columns, mixed=task == "several")


def _task(
    name: str,
    table: Table,
    columns: Columns,
    labels: Sequence[str] | None,
    multi_label: bool | None,
    metric: str,
) -> Task:
    """The task of a training file, with the classes or tags that it has, or that a model was trained for."""
    if name != "classify" and multi_label:
        raise DataError(
            f"several labels a text (--multi-label) go with classification, the task is {name}. Leave it out."
        )
    if name == "tag" and columns.text_pair:
        raise DataError("--text-pair-column: a tagger reads single texts. Leave it out.")
    if name == "answer":
        return Answer(metric, null=not all(asked(table, columns)[2]))
    if name == "mask_language":
        return MaskLanguage(metric)
    if name == "several":
        texts_and_pairs(table, columns, mixed=True)
        chosen = _classes_of_tasks(table, columns)
        return Several(chosen if labels is None else tuple(labels), metric)
    if name == "tag":
        names, several = tagged(table, columns)[1], False
    else:
        texts_and_pairs(table, columns)  # what is wrong with the texts is told before what is wrong with the labels
        names, several = label_names(table, columns, multi_label)
    classes = _classes(table, names, several)
    if name == "tag":  # train may be too small to have an entity of two words of each type
        classes = in_order((*classes, *(f"I-{tag[2:]}" for tag in classes if tag.startswith("B-"))))
    chosen = classes if labels is None else tuple(labels)
    return Tag(chosen, metric) if name == "tag" else Classify(chosen, several, metric)


def _split(table: Table, name: str, task: Task, columns: Columns, by_id: bool, labelled: bool = True) -> Split:
    if isinstance(task, Answer):
        questions, contexts, accepted = asked(table, columns, labelled)
        return Split(name, questions, contexts, objects(accepted) if labelled else None, table.source, table.rows)
    if isinstance(task, MaskLanguage):
        texts = bare_texts(table, columns)
        return Split(name, texts, None, task.no_labels(len(texts)), table.source)
    if isinstance(task, Tag):
        if not labelled:  # plain texts or words, whatever train has; the words of a text are those between spaces
            texts, given = untagged(table, columns if columns.text in table.columns else USUAL)
            words = texts if given else tuple(" ".join(text.split()) for text in texts)
            return Split(name, words, None, None, table.source, table.rows)
        texts, tags = tagged(table, columns)
        ids = _ids(table, tags, task, by_id)
        return Split(
            name, texts, None, objects(tuple(ids[tag] for tag in row) for row in tags), table.source, table.rows
        )
    texts, pairs = texts_and_pairs(table, columns, mixed=isinstance(task, Several))
    labels = None
    if labelled and isinstance(task, Several):
        labels = _encode_tasks(table, columns, task)
    elif labelled:
        assert isinstance(task, Classify)
        names, _ = label_names(table, columns, task.multi_label)
        labels = _encode(table, names, task, by_id)
    return Split(name, texts, pairs, labels, table.source, table.rows)


def _classes(table: Table, names: Sequence[tuple[str, ...]], several: bool) -> tuple[str, ...]:
    found = in_order(name for row in names for name in row)
    if len(found) < (1 if several else 2):
        got = f"every row has the label {found[0]!r}" if found else "no row has a label"
        raise DataError(f"{table.source}: {got}, wanted two classes or more. Add rows of another class.")
    return found


def _classes_of_tasks(table: Table, columns: Columns) -> tuple[str, ...]:
    """`task/label` of all tasks, those of one together, in order."""
    found: dict[str, set[str]] = {}
    for task, label in tasks_and_labels(table, columns):
        found.setdefault(task, set()).add(label)
    for task, names in sorted(found.items()):
        if len(names) < 2:
            raise DataError(
                f"{table.source}: every row of the task {task!r} has the label {min(names)!r}, wanted two classes or "
                "more. Add rows of another class, or leave the task out."
            )
    return tuple(f"{task}{SEPARATOR}{name}" for task in sorted(found) for name in in_order(found[task]))


def _encode_tasks(table: Table, columns: Columns, task: Several) -> np.ndarray:
    """(n,) int64: the label of each row, as an index among those of all tasks."""
    ids = {label: i for i, label in enumerate(task.labels)}
    rows = tasks_and_labels(table, columns)
    for i, (name, label) in enumerate(rows):
        if name not in task.parts:
            raise _unknown(table, i, "task", name, tuple(task.parts))
        if label not in task.parts[name].labels:
            raise _unknown(table, i, f"label of the task {name!r}:", label, task.parts[name].labels)
    return np.array([ids[f"{name}{SEPARATOR}{label}"] for name, label in rows], np.int64)


def _encode(table: Table, names: Sequence[tuple[str, ...]], task: Classify, by_id: bool) -> np.ndarray:
    """Class ids of rows: (n,), or (n, C) of 0 and 1."""
    ids = _ids(table, names, task, by_id)
    if not task.multi_label:
        return np.array([ids[row[0]] for row in names], dtype=np.int64)
    several = np.zeros((len(names), len(task.labels)), dtype=np.float32)
    for i, row in enumerate(names):
        several[i, [ids[name] for name in row]] = 1
    return several


def _ids(table: Table, names: Sequence[tuple[str, ...]], task: Task, by_id: bool) -> dict[str, int]:
    """Class ids by name; with `by_id` also by number, where a file has only numbers and the names are none.

    DataError for the first row that has another name.
    """
    ids = {label: i for i, label in enumerate(task.labels)}
    found = {name for row in names for name in row}
    numbers = {name: value(name) for name in found if are_integral([name])}
    if are_integral(task.labels):
        ids |= {name: ids[str(number)] for name, number in numbers.items() if str(number) in ids}
    elif by_id and len(numbers) == len(found):
        ids |= {name: number for name, number in numbers.items() if 0 <= number < len(task.labels)}
    for i, row in enumerate(names):
        for name in row:
            if name not in ids:
                whose = "the model's" if by_id else "those of train"
                raise _unknown(table, i, "label", name, task.labels, f" The labels are {whose}.")
    return ids


def _unknown(table: Table, row: int, what: str, got: str, known: Sequence[str], more: str = "") -> DataError:
    near = did_you_mean(got, known)
    return table.fault(
        row, f"unknown {what} {got!r}, wanted one of {shown(known)}.{near} Correct it or remove the row.{more}"
    )


def _read_stream(stream: TextIO) -> Table:
    source = "standard input" if stream is sys.stdin else str(getattr(stream, "name", "the stream"))
    binary = getattr(stream, "buffer", None)
    return read_text(source, decode(source, binary.read() if binary else stream.read().encode()), "txt")


def _refuse_same_source(sources: dict[str, str | None]) -> None:
    seen: dict[Path, str] = {}
    for name, source in sources.items():
        path = Path(source or "").expanduser()
        if not source or not path.exists():
            continue
        place = path.resolve()
        if place in seen:
            raise _same(source, name, seen[place], "file")
        seen[place] = name


def _refuse_lone_pairs(train: Split, split: Split) -> None:
    if (split.pairs is None) == (train.pairs is None):
        return
    having, lacking = (train, split) if split.pairs is None else (split, train)
    raise DataError(
        f"{lacking.source}: no text_pair column, but {having.source} has one. "
        f"Add the second texts to {lacking.source}, or type --text-pair-column NAME."
    )


def _refuse_same_rows(splits: Sequence[Split | None]) -> None:
    seen: dict[bytes, str] = {}
    for split in splits:
        if split is None:
            continue
        rows = np.sort(split.keys).tobytes()
        if rows in seen:
            raise _same(split.source, split.name, seen[rows], "data")
        seen[rows] = split.name


def _same(source: str, name: str, other: str, what: str) -> DataError:
    advice = "leave --dev out: a part of train is then taken" if name == "dev" else f"leave --{name} out"
    return DataError(
        f"{source}: {name} is the {other} {what}, wanted rows that {other} has not. Give another file, or {advice}."
    )
