"""How a model answers a test set, text by text, beside its teacher: what a page shows besides scores.

    portrait(task, test, winner, teacher) -> {
        right       on how many texts both are right, one alone, neither; whether that is chance
        confusion   what was taken for what, a table each task; of many labels those that are confused most
        found       of each label or entity type: hit, missed, said in vain (where a text has several)
        calibration how often each is right when it is so sure, and the expected calibration error
        differ      the texts on which the two differ most
        decided     a hash of every decision
    }

Everywhere `winner` and `teacher` are what `task.decide` takes, of all texts of `test`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from smidgen.measure.quality import mcnemar
from smidgen.splits import Split
from smidgen.tasks import Answer, Classify, Several, Tag, Task
from smidgen.tasks.answer import exact, word_f1
from smidgen.tasks.classify import softmax

LABELS = 12  # rows of a table of confusion, at most
MISTAKES = 10  # kinds of mistakes that are named, at most
TEXTS = 20  # texts on which two models differ most
CUT = 200  # characters of such a text
BINS = 10  # of confidence, equally wide
NONE = "(none)"
WHO = ("winner", "teacher")


def portrait(task: Task, test: Split, winner: np.ndarray, teacher: np.ndarray) -> dict[str, Any]:
    """What `report.json` has under `portrait`; see the head of this file."""
    assert test.labels is not None
    said = dict(zip(WHO, (winner, teacher), strict=True))
    return {
        "n": len(test),
        "right": both_right(*(right(task, outputs, test.labels) for outputs in said.values())),
        "confusion": list(confusion(task, test.labels, said)),
        "found": found(task, test.labels, said),
        "calibration": {name: reliability(*sure(task, outputs, test.labels)) for name, outputs in said.items()},
        "differ": differ(task, test, winner, teacher),
        "decided": decided(task, winner),
    }


def right(task: Task, outputs: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """(n,) bool: whether the whole of a text is right: every tag of it, or an accepted answer exactly."""
    if isinstance(task, Classify | Several):
        return task.correct(outputs, gold)
    pairs = zip(task.decide(outputs), gold, strict=True)
    if isinstance(task, Answer):
        return np.array([any(exact(said, text) for text in _accepted(wanted)) for said, wanted in pairs], bool)
    return np.array([tuple(said) == tuple(wanted) for said, wanted in pairs], bool)


def both_right(winner: np.ndarray, teacher: np.ndarray) -> dict[str, Any]:
    """Texts by who is right, of (n,) bool each, and the exact p-value that both are right equally often."""
    return {
        "both": int((winner & teacher).sum()),
        "winner": int((winner & ~teacher).sum()),
        "teacher": int((teacher & ~winner).sum()),
        "neither": int((~winner & ~teacher).sum()),
        "p": mcnemar(winner, teacher),
    }


def decided(task: Task, outputs: np.ndarray) -> str:
    """64 hex digits over all decisions, in the order of the texts."""
    return hashlib.sha256(json.dumps(task.decide(outputs).tolist()).encode()).hexdigest()


# What was taken for what.


def confusion(task: Task, gold: np.ndarray, said: Mapping[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    """A table for each task whose texts have one label each; of questions, whether they have an answer."""
    if isinstance(task, Classify) and not task.multi_label:
        yield confused("", task.labels, gold, {name: task.decide(outputs) for name, outputs in said.items()})
    elif isinstance(task, Several):
        for own, (name, part), at in zip(range(len(task.parts)), task.parts.items(), task.segments, strict=True):
            rows = task.owners[gold] == own
            if rows.any():
                ids = {who: outputs[rows, at].argmax(-1) for who, outputs in said.items()}
                yield confused(name, part.labels, gold[rows] - at.start, ids)
    elif isinstance(task, Answer):
        empty = np.array([not wanted for wanted in gold], np.int64)
        ids = {who: np.array([not text for text in task.decide(outputs)], np.int64) for who, outputs in said.items()}
        yield confused("", ("with an answer", "without"), empty, ids)


def confused(name: str, labels: Sequence[str], gold: np.ndarray, ids: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Counts by gold label (down) and by decision (across), for each of `ids`, (n,) int64 like `gold`.

    Of more than LABELS labels those stay that the winner confuses most often; the others are counted together in a
    last row and column. `most` names the winner's most frequent mistakes: gold, decision, texts.
    """
    winner = ids["winner"]
    wrong, counts = np.unique((gold * len(labels) + winner)[gold != winner], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    mistakes = [(*divmod(int(wrong[i]), len(labels)), int(counts[i])) for i in order]
    shown = list(range(len(labels)))
    if len(labels) > LABELS:
        ranked = [label for one, other, _ in mistakes for label in (one, other)]
        shown = sorted(list(dict.fromkeys([*ranked, *shown]))[:LABELS])
    place = np.full(len(labels), len(shown))
    place[shown] = np.arange(len(shown))
    size = len(shown) + (len(shown) < len(labels))
    tables = {
        who: np.bincount(place[gold] * size + place[said], minlength=size * size).reshape(size, size).tolist()
        for who, said in ids.items()
    }
    return {
        "name": name,
        "labels": [labels[i] for i in shown],
        "of": len(labels),
        "wrong": int(counts.sum()),
        "shown": sum(count for one, other, count in mistakes if one in shown and other in shown),
        "most": [[labels[one], labels[other], count] for one, other, count in mistakes[:MISTAKES]],
        **tables,
    }


def found(task: Task, gold: np.ndarray, said: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Of each label of texts with several, or each type of entities: how many there are, and of each model
    [hit, missed, said in vain]."""
    if not isinstance(task, Tag) and not (isinstance(task, Classify) and task.multi_label):
        return []
    wanted = _things(task, gold)
    told = {who: _things(task, task.decide(outputs)) for who, outputs in said.items()}
    counts = {name: {who: [0, 0, 0] for who in told} for name in task.counted(gold[:0])}
    for who, each in told.items():
        for real, own in zip(wanted, each, strict=True):
            for column, group in enumerate((real & own, real - own, own - real)):
                for label, *_ in group:
                    counts.setdefault(label, {who: [0, 0, 0] for who in told})[who][column] += 1
    return [{"label": name, "gold": sum(each["winner"][:2]), **each} for name, each in counts.items()]


def _things(task: Tag | Classify, rows: np.ndarray) -> list[set[tuple[str, int, int]]]:
    """What each text is said to have: labels, entities, or words with a tag; each with its first word and the next."""
    if isinstance(task, Classify):
        return [{(task.labels[i], 0, 0) for i in np.flatnonzero(row > 0.5)} for row in rows]
    if any(label.startswith(("B-", "I-")) for label in task.labels):
        return [set(task.entities(tags)) for tags in rows]
    return [{(task.labels[tag], i, i + 1) for i, tag in enumerate(tags)} for tags in rows]


# How sure, and how often right.


def chances(task: Classify | Several, outputs: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """(n, C) probabilities; of several tasks those of the labels of the text's own task, 0 elsewhere."""
    if isinstance(task, Classify):
        return task.probabilities(outputs)
    own = task.owners[gold][:, None] == task.owners
    return np.where(own, softmax(np.where(own, outputs, -1e9)), 0)


def sure(task: Task, outputs: np.ndarray, gold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of every decision its probability (m,), and whether it is right (m,) bool.

    Decisions are of texts; of every label where a text may have several; of every word that a tagger reads. An answer
    is right if it is an accepted one exactly.
    """
    if isinstance(task, Answer):
        return np.array([answer.score for answer in outputs]), right(task, outputs, gold)
    if isinstance(task, Tag):
        logits = np.concatenate(list(outputs))
        read = np.ptp(logits, axis=-1) > 2e-3  # words behind the cut of a long text have next to equal logits
        same = logits.argmax(-1) == np.concatenate([np.array(tags, np.int64) for tags in gold])
        return softmax(logits[read]).max(-1), same[read]
    assert isinstance(task, Classify | Several)
    given = chances(task, outputs, gold)
    if task.multi_label:
        return np.maximum(given, 1 - given).ravel(), (task.decide(outputs) == gold).ravel()
    return given.max(-1), task.correct(outputs, gold)


def reliability(sure: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    """Bins of confidence that hold anything, and the expected calibration error: sum of n_b / n |right_b - sure_b|
    (Naeini et al. 2015, AAAI; Guo et al. 2017, arXiv:1706.04599)."""
    at = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
    bins = [
        {
            "low": b / BINS,
            "high": (b + 1) / BINS,
            "n": int((at == b).sum()),
            "sure": float(sure[at == b].mean()),
            "right": float(right[at == b].mean()),
        }
        for b in np.unique(at).tolist()
    ]
    error = sum(b["n"] * abs(b["right"] - b["sure"]) for b in bins) / max(len(sure), 1)
    return {"n": len(sure), "error": error, "bins": bins}


# Where they differ.


def differ(task: Task, test: Split, winner: np.ndarray, teacher: np.ndarray) -> list[dict[str, Any]]:
    """The texts on which winner and teacher differ most, the farthest first, each with what both say and how surely.

    The distance is the total variation of their probabilities, 1/2 sum |p - q|; where a text may have several labels,
    that of the label they differ most on; of a tagger, that of such a word; of answers, one minus their common words
    (F1), times the mean of both probabilities. `on` names that label or word.
    """
    assert test.labels is not None
    far, tell = _compared(task, test, winner, teacher)
    order = np.argsort(-far, kind="stable")[:TEXTS]
    return [
        {
            "row": test.row(int(i)),
            "text": cut(test.texts[i]),
            "pair": cut(test.pairs[i]) if test.pairs is not None and test.pairs[i] else None,
            "distance": round(float(far[i]), 4),
            **tell(int(i)),
        }
        for i in order
        if far[i] > 0
    ]


def cut(text: str) -> str:
    """At most CUT characters."""
    return text if len(text) <= CUT else text[: CUT - 1] + "\u2026"


Tell = Callable[[int], dict[str, Any]]


def _compared(task: Task, test: Split, winner: np.ndarray, teacher: np.ndarray) -> tuple[np.ndarray, Tell]:
    """Distances (n,), and what is told of a text: gold, winner, teacher and on."""
    gold = test.labels
    assert gold is not None
    if isinstance(task, Answer):
        pairs = list(zip(winner, teacher, strict=True))
        far = np.array([(1 - word_f1(a.text, b.text)) * (a.score + b.score) / 2 for a, b in pairs])
        same = [right(task, outputs, gold) for outputs in (winner, teacher)]
        return far, lambda i: _told(
            _accepted(gold[i])[0] or NONE,
            *((cut(one.text) or NONE, one.score) for one in pairs[i]),
            right=[bool(each[i]) for each in same],
        )
    if isinstance(task, Tag):
        both = [(softmax(a), softmax(b)) for a, b in zip(winner, teacher, strict=True)]
        each = [np.abs(p - q).sum(-1) / 2 for p, q in both]
        words = [int(far.argmax()) for far in each]
        return np.array([far.max() for far in each]), lambda i: _told(
            task.labels[gold[i][words[i]]],
            *(_likeliest(task.labels, p[words[i]]) for p in both[i]),
            on=test.texts[i].split(" ")[words[i]],
        )
    assert isinstance(task, Classify | Several)
    p, q = (chances(task, outputs, gold) for outputs in (winner, teacher))
    apart = np.abs(p - q)
    if not task.multi_label:
        return apart.sum(-1) / 2, lambda i: _told(
            task.labels[gold[i]], _likeliest(task.labels, p[i]), _likeliest(task.labels, q[i])
        )
    most = apart.argmax(-1)
    return apart.max(-1), lambda i: _told(
        _names(task.labels, gold[i]),
        *((_names(task.labels, each[i]), each[i, most[i]]) for each in (p, q)),
        on=task.labels[most[i]],
    )


def _told(
    gold: str, *said: tuple[str, float], on: str | None = None, right: Sequence[bool] | None = None
) -> dict[str, Any]:
    right = right or [label == gold for label, _ in said]
    each = zip(WHO, said, right, strict=True)
    return {
        "gold": cut(gold),
        "on": on,
        **{who: {"label": label, "p": round(float(p), 4), "right": is_right} for who, (label, p), is_right in each},
    }


def _likeliest(labels: Sequence[str], chances: np.ndarray) -> tuple[str, float]:
    return labels[int(chances.argmax())], chances.max()


def _names(labels: Sequence[str], flags: np.ndarray) -> str:
    return ", ".join(label for label, on in zip(labels, flags, strict=True) if on > 0.5) or NONE


def _accepted(answers: Sequence[tuple[str, int]]) -> list[str]:
    return [text for text, _ in answers] or [""]
