"""`smidgen predict`: what was typed into what a model reads, and its answers into lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from smidgen.data import Columns, read_mixed, read_texts
from smidgen.errors import InputError, did_you_mean
from smidgen.tasks import Task

Rows = tuple[list[Any], list[str] | None]  # texts, questions or lists of words; and pairs or contexts


def read(task: Task, texts: Sequence[str], pairs: Sequence[str], file: Path | None, columns: Columns) -> Rows:
    """The rows to predict: those typed, or those of a file, or a text a line from standard input.

    Raises:
        InputError: what was typed does not go together, or not with the task; or what is read is no such data.
    """
    if task.name == "tag" and (pairs or columns.text_pair):
        raise InputError("--pair and --text-pair-column: this model tags single texts. Leave them out.")
    if texts and file:
        raise InputError("Both texts and --file were given. Give one of them.")
    if task.name == "answer" and not file and not (texts and pairs):
        raise InputError(
            "This model looks for answers in contexts. Give --pair CONTEXT for each question, or --file with the "
            "columns question and context."
        )
    if pairs and len(pairs) != len(texts):
        raise InputError(f"--pair was given {len(pairs)} times for {len(texts)} texts. Give one for each text.")
    for what, given in (("text", texts), ("--pair", () if task.name == "several" else pairs)):
        for i, text in enumerate(given, 1):
            if not text.strip():
                raise InputError(f"{what} {i} is empty, wanted a text. Fill it in or leave it out.")
    if texts:
        return list(texts), list(pairs) or None
    rows, seconds = read_texts(str(file) if file else "-", columns, task.name)
    return list(rows), None if seconds is None else list(seconds)


def read_of(
    tasks: Mapping[str, Task],
    task: str | None,
    texts: Sequence[str],
    pairs: Sequence[str],
    file: Path | None,
    columns: Columns,
) -> tuple[list[Any], list[str | None], list[str]]:
    """The same for a bundle of tasks: rows, their pairs, and the task of each, which is `task` or stands in the file.

    Raises:
        InputError: as `read`, and where no task is named, or an unknown one.
    """
    there = f"This bundle has {', '.join(tasks)}."
    if task is None and file is not None and not texts:
        return read_mixed(str(file), columns, {name: one.name for name, one in tasks.items()})
    if task is None:
        raise InputError(f"--task: got none. {there} Give --task NAME, or --file with a column of task names.")
    if task not in tasks:
        raise InputError(f"--task: there is no {task!r}.{did_you_mean(task, tasks)} {there}")
    rows, seconds = read(tasks[task], texts, pairs, file, columns)
    return rows, list(seconds) if seconds is not None else [None] * len(rows), [task] * len(rows)


def lines_of(
    tasks: Mapping[str, Task], names: Sequence[str], rows: Sequence[Any], answers: Sequence[Any]
) -> Iterator[str]:
    """As `lines`, behind the name of the row's task."""
    for number, (name, row, answer) in enumerate(zip(names, rows, answers, strict=True), 1):
        for line in lines(tasks[name], [row], [answer], number):
            yield f"{name}\t{line}"


def lines(task: Task, rows: Sequence[Any], answers: Sequence[Any], first: int = 1) -> Iterator[str]:
    """Fields with tabs between them, without line breaks inside.

    classify   label, score, text; a line a label
    several    task, label, score, text; a line a label of a task
    tag        number of the text, `first` and on, type, score, words; a line an entity
    answer     answer, score, question; a line a question
    """
    for number, (row, answer) in enumerate(zip(rows, answers, strict=True), first):
        for name, one in _each(task, answer):
            score = f"{one['score']:.4f}"
            if task.name == "tag":
                yield _line(number, one["entity_group"], score, one["word"])
            elif task.name == "several":
                yield _line(name, one["label"], score, row)
            else:
                yield _line(one["answer"] if task.name == "answer" else one["label"], score, row)


def _each(task: Task, answer: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """All that is said of a text, with the name of the task where there are several."""
    for name, said in answer.items() if task.name == "several" else [(task.name, answer)]:
        for one in said if isinstance(said, list) else [said]:
            yield name, one


def _line(*fields: object) -> str:
    return "\t".join(" ".join(str(field).split()) for field in fields)
