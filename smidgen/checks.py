"""What has to be known of the data before figures on it are believed: each finding as data, and in a sentence.

    repeats      rows that another split has word for word
    conflicts    rows whose text another row labels otherwise, in the same split or in train
    few          classes with less than FEW examples in train
    lacking      classes of train that a split has not
    constant     one class is most of train: what a model scores that always answers it
    cut          texts that are longer than the model's limit, and what is lost of them

Rows are called by the number of their line in the file. What is found of test with a model in hand, `near` and
`unresolved`, is in smidgen.caveats.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from smidgen.cells import shown
from smidgen.splits import Split
from smidgen.tasks import Answer, Classify, MaskLanguage, Several, Task
from smidgen.tasks.several import task_of

FEW = 5  # examples of a class below which there is a warning
STRONG = 0.8  # share of one class from which on an answer that never changes has to be told of
FITTED = 0.01  # of the texts, that are cut by design
EXAMPLES = 5  # rows that are named in a finding's data


@dataclass(frozen=True)
class Check:
    """One finding: `count` of `of`, which are rows, or classes where classes are counted.

    `rows` are examples: the number of a row, and that of the row that it goes with, if there is one.
    """

    check: str
    split: str
    count: int
    of: int
    words: str
    rows: tuple[tuple[int, ...], ...] = ()

    @property
    def loud(self) -> bool:
        """Is it worth a sentence? A length that is fitted to the data cuts one text in a hundred."""
        return self.check != "cut" or self.count > FITTED * self.of

    def to_data(self) -> dict[str, Any]:
        """As `report.json` has it: without `rows` where there are none."""
        found = asdict(self)
        return found if self.rows else {name: value for name, value in found.items() if name != "rows"}


def before(task: Task, train: Split, dev: Split | None, test: Split | None, unlabeled: Split | None) -> Iterator[Check]:
    """What can be said of the files, before a part of train may become dev."""
    yield from conflicts(task, train)
    yield from few(task, train)
    for split, known in ((test, train), (test, dev), (test, unlabeled), (dev, train)):
        if split is not None and known is not None:
            yield from repeats(split, known)
    for split in (dev, test):
        if split is not None:
            yield from conflicts(task, split, train)


def after(task: Task, train: Split, dev: Split, test: Split | None) -> Iterator[Check]:
    """What can be said once dev is there."""
    for split in (dev, test):
        if split is not None:
            yield from lacking(task, split, train)
    yield from constant(task, train, test or dev)


def repeats(split: Split, known: Split) -> Iterator[Check]:
    """Rows of `split` that are in `known`, word for word; labels do not count."""
    first = {key: i for i, key in reversed(list(enumerate(known.keys.tolist())))}
    pairs = [(i, first[key]) for i, key in enumerate(split.keys.tolist()) if key in first]
    if pairs:
        said = (
            f"{share_of(len(pairs), split)} {_are(len(pairs))} also in {known.name}, {example(split, pairs[0], known)}."
        )
        yield Check("repeats", split.name, len(pairs), len(split), said, examples(split, pairs, known))


def conflicts(task: Task, split: Split, known: Split | None = None) -> Iterator[Check]:
    """Rows whose text a row of `known` labels otherwise; None: a row of the same split. Of several tasks, for the same
    task."""
    first: dict[Any, dict[str, int]] = {}
    for i, (text, label) in enumerate(_labelled(task, known or split)):
        first.setdefault(text, {}).setdefault(label, i)
    pairs = []
    for i, (text, label) in enumerate(_labelled(task, split)):
        other = next((at for name, at in first.get(text, {}).items() if name != label), None)
        if other is not None:
            pairs.append((i, other))
    if pairs:
        what = {"tag": "tags", "answer": "answers"}.get(task.name, "labels")
        where = "in other rows" if known is None else f"in {known.name}"
        one = "has" if len(pairs) == 1 else "have"
        said = f"{share_of(len(pairs), split)} {one} other {what} {where}, {example(split, pairs[0], known or split)}."
        yield Check("conflicts", split.name, len(pairs), len(split), said, examples(split, pairs, known or split))


def few(task: Task, train: Split) -> Iterator[Check]:
    """Classes with less than FEW examples."""
    counts = _counted(task, train)
    rare = [f"{name} ({count})" for name, count in counts.items() if count < FEW]
    if rare:
        said = f"{train.source}: fewer than {FEW} examples of {shown(rare)}."
        yield Check("few", train.name, len(rare), len(counts), said)


def lacking(task: Task, split: Split, train: Split) -> Iterator[Check]:
    """Classes that train has and this split has not; of several tasks also whole tasks."""
    counts, here = _counted(task, train), _counted(task, split)
    gone = [name for name, count in counts.items() if count and not here[name]]
    if isinstance(task, Several):
        assert split.labels is not None
        there = set(task.owners[split.labels].tolist())
        tasks = [name for i, name in enumerate(task.parts) if i not in there]
        gone = [name for name in gone if task_of(name) not in tasks]
        if tasks:
            said = f"{split.source}: no row of {split.name} is of the task {shown(tasks)}."
            yield Check("lacking", split.name, len(tasks), len(task.parts), said)
    if gone:
        said = f"{split.source}: no example of {shown(gone)} in {split.name}, whose score says nothing of "
        yield Check("lacking", split.name, len(gone), len(counts), f"{said}{'it' if len(gone) == 1 else 'them'}.")


def constant(task: Task, train: Split, judged: Split) -> Iterator[Check]:
    """The class that is STRONG or more of train, a task's where there are several, and what always to answer it scores
    on `judged`. Of classes that go together, of tags and of spans there is no such answer."""
    if not isinstance(task, Classify | Several) or task.multi_label or judged.labels is None:
        return
    outputs, most = _always(task, train, len(judged))
    score = task.score(outputs, judged.labels)
    for label, count, of in most:
        if of and count >= STRONG * of:
            said = (
                f"{train.source}: {count / of:.1%} of {train.name} is {label!r}. A model that always answers the most "
                f"frequent label has an {task.metric} of {score:.1%} on {judged.name}."
            )
            yield Check("constant", train.name, count, of, said)


def floor(task: Task, train: Split, judged: Split) -> float | None:
    """The metric of the most frequent label as the only answer, 0 to 1; None where there is no such answer."""
    if not isinstance(task, Classify | Several) or task.multi_label or judged.labels is None:
        return None
    return task.score(_always(task, train, len(judged))[0], judged.labels)


def cut(split: Split, lengths: np.ndarray, most: int) -> Iterator[Check]:
    """Texts longer than `most` tokens, which are cut there.

    Args:
        lengths: (n,) tokens of the whole texts, special ones included.
    """
    long = np.flatnonzero(lengths > most)
    if len(long):
        lost = (lengths[long] - most).sum() / lengths.sum()
        longest = int(lengths.argmax())
        said = (
            f"{share_of(len(long), split, 'text')} {_are(len(long))} cut at {most:,} tokens, which loses {lost:.2%} of "
            f"all tokens; row {split.row(longest)} has {lengths[longest]:,}."
        )
        rows = tuple((split.row(int(i)),) for i in long[:EXAMPLES])
        yield Check("cut", split.name, len(long), len(split), said, rows)


# Words that several findings share.


def share_of(count: int, split: Split, what: str = "row") -> str:
    """`test.csv: 2 of 300 rows of test (0.7%)`."""
    return f"{split.source}: {count:,} of {len(split):,} {what}s of {split.name} ({count / len(split):.1%})"


def example(split: Split, pair: tuple[int, int], known: Split) -> str:
    """`as row 3 of test and row 9 of train`."""
    one, other = split.row(pair[0]), known.row(pair[1])
    if known is split:
        return f"as rows {one} and {other}"
    return f"as row {one} of {split.name} and row {other} of {known.name}"


def examples(split: Split, pairs: Sequence[tuple[int, int]], known: Split) -> tuple[tuple[int, int], ...]:
    return tuple((split.row(i), known.row(j)) for i, j in pairs[:EXAMPLES])


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _labelled(task: Task, split: Split) -> Iterator[tuple[Any, str]]:
    """Of each row what is labelled, and its label in a form that compares."""
    assert split.labels is not None
    owners = task.owners[split.labels].tolist() if isinstance(task, Several) else [0] * len(split)
    for key, owner, label in zip(split.keys.tolist(), owners, split.labels.tolist(), strict=True):
        yield (key, owner), repr(label)


def _counted(task: Task, split: Split) -> dict[str, int]:
    """Examples by class; none where the task has no classes."""
    assert split.labels is not None
    return {} if isinstance(task, Answer | MaskLanguage) else task.counted(split.labels)


def _always(task: Classify | Several, train: Split, rows: int) -> tuple[np.ndarray, list[tuple[str, int, int]]]:
    """Outputs that always name the most frequent label of each task; and that label, how often it is there, of how
    many."""
    counts = np.array(list(_counted(task, train).values()))
    outputs = np.zeros((rows, len(task.labels)), np.float32)
    found = []
    for at in task.segments if isinstance(task, Several) else [slice(0, len(counts))]:
        best = at.start + int(counts[at].argmax())
        outputs[:, best] = 1
        found.append((task.labels[best], int(counts[best]), int(counts[at].sum())))
    return outputs, found
