"""How a winner answers beside its teacher: each part against what is counted by hand, or by scikit-learn."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from reports import answered

from smidgen.encoded import objects
from smidgen.portrait import CUT, LABELS, confused, cut, portrait, reliability
from smidgen.splits import Split
from smidgen.tasks import Answer, Classify, Several, Tag, Task
from smidgen.tasks.answer import Found

TEXTS = tuple(f"text {i}" for i in range(50))
CLASSIFY = Classify(("bad", "so so", "good"))


def plain(task: Task, test: Split, winner: Any, teacher: Any) -> dict[str, Any]:
    """A portrait that went through JSON, as in `report.json`."""
    found: dict[str, Any] = json.loads(json.dumps(portrait(task, test, winner, teacher)))
    assert found["n"] == len(test) == sum(found["right"][key] for key in ("both", "winner", "teacher", "neither"))
    return found


def split(gold: np.ndarray, texts: tuple[str, ...] = TEXTS, pairs: tuple[str, ...] | None = None) -> Split:
    return Split("test", texts[: len(gold)], pairs, gold, "test.csv")


def test_what_was_taken_for_what_is_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    test, winner, teacher = answered(CLASSIFY, TEXTS)
    (table,) = plain(CLASSIFY, test, winner, teacher)["confusion"]
    for name, outputs in (("winner", winner), ("teacher", teacher)):
        assert table[name] == metrics.confusion_matrix(test.labels, outputs.argmax(-1)).tolist()
    wrong = table["wrong"]
    assert wrong == table["shown"] == (winner.argmax(-1) != test.labels).sum() == sum(n for *_, n in table["most"])
    assert table["most"] == sorted(table["most"], key=lambda row: -row[2])


def test_of_many_labels_the_confused_ones_stay_and_every_text_is_counted() -> None:
    labels = tuple(f"l{i}" for i in range(1000))
    gold, said = np.arange(1000), np.arange(1000)
    said[[7, 8, 9]] = 500
    table = confused("", labels, gold, {"winner": said, "teacher": gold})
    assert len(table["labels"]) == LABELS and {"l7", "l8", "l9", "l500"} <= set(table["labels"])
    assert table["of"] == 1000 and table["wrong"] == table["shown"] == 3
    assert sum(map(sum, table["winner"])) == sum(map(sum, table["teacher"])) == 1000
    assert table["winner"][-1][-1] == 1000 - LABELS
    at = [table["labels"].index(name) for name in ("l7", "l500")]
    assert table["winner"][at[0]][at[1]] == 1 and table["winner"][at[0]][at[0]] == 0


def test_calibration_is_its_formula() -> None:
    sure = np.array([0.55, 0.58, 0.9, 0.95, 1.0])
    right = np.array([True, False, True, True, False])
    found = reliability(sure, right)
    assert [(b["low"], b["n"]) for b in found["bins"]] == [(0.5, 2), (0.9, 3)]
    assert found["error"] == pytest.approx(2 / 5 * abs(0.5 - 0.565) + 3 / 5 * abs(2 / 3 - 0.95))
    assert reliability(np.ones(4), np.ones(4, bool))["error"] == 0


def test_the_texts_are_those_whose_probabilities_are_farthest_apart() -> None:
    test, winner, teacher = answered(CLASSIFY, TEXTS)
    found = plain(CLASSIFY, test, winner, teacher)["differ"]
    p, q = (np.exp(z) / np.exp(z).sum(-1, keepdims=True) for z in (winner.astype(float), teacher.astype(float)))
    far = np.abs(p - q).sum(-1) / 2
    assert len(found) == 20 and [one["row"] - 1 for one in found] == np.argsort(-far)[:20].tolist()
    for one in found:
        i = one["row"] - 1
        assert one["text"] == TEXTS[i] and one["gold"] == CLASSIFY.labels[test.labels[i]]
        assert one["distance"] == pytest.approx(far[i], abs=1e-4)
        for who, chances in (("winner", p), ("teacher", q)):
            best = chances[i].argmax()
            assert one[who]["label"] == CLASSIFY.labels[best] and one[who]["right"] == (best == test.labels[i])
            assert one[who]["p"] == pytest.approx(chances[i, best], abs=1e-4)
    assert plain(CLASSIFY, test, teacher, teacher)["differ"] == []


def test_long_texts_are_cut() -> None:
    assert cut("x" * CUT) == "x" * CUT and cut("x" * 1000) == "x" * (CUT - 1) + "…"
    test, winner, teacher = answered(CLASSIFY, tuple(f"{i}" * 999 for i in range(10)))
    assert all(len(one["text"]) == CUT for one in plain(CLASSIFY, test, winner, teacher)["differ"])


def test_every_label_of_texts_with_several() -> None:
    task = Classify(("a", "b", "c"), multi_label=True)
    gold = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 0]], np.float32)
    winner = np.array([[2, -3, -4], [3, -1, -1], [1, 4, -2]], np.float32)
    teacher = np.where(gold > 0, 2, -2).astype(np.float32)
    found = plain(task, split(gold), winner, teacher)
    assert found["confusion"] == []
    assert [(row["label"], row["gold"], row["winner"]) for row in found["found"]] == [
        ("a", 2, [2, 0, 1]),
        ("b", 1, [1, 0, 0]),
        ("c", 1, [0, 1, 0]),
    ]
    assert found["calibration"]["winner"]["n"] == 9 and found["right"]["teacher"] == 2
    first, second = found["differ"][:2]
    assert (first["row"], first["on"], first["gold"], first["winner"]["label"]) == (1, "c", "a, c", "a")
    assert (second["row"], second["on"], second["gold"]) == (2, "a", "(none)")
    assert second["winner"]["label"] == "a" and second["teacher"]["label"] == "(none)"
    assert second["winner"]["p"] == pytest.approx(1 / (1 + np.exp(-3)), abs=1e-4)


def test_a_table_each_of_several_tasks() -> None:
    task = Several(("mood/bad", "mood/good", "topic/food", "topic/film", "topic/sport"))
    gold = np.array([0, 1, 3, 4])
    winner = np.array([[2, 0, 9, 0, 0], [2, 0, 9, 0, 0], [0, 9, 0, 3, 0], [9, 0, 0, 1, 0]], np.float32)
    teacher = np.eye(5, dtype=np.float32)[gold]
    found = plain(task, split(gold), winner, teacher)
    mood, topic = found["confusion"]
    assert (mood["name"], mood["labels"], mood["winner"]) == ("mood", ["bad", "good"], [[1, 0], [1, 0]])
    assert (topic["name"], topic["winner"]) == ("topic", [[0, 0, 0], [0, 1, 0], [0, 1, 0]])
    assert topic["teacher"] == [[0, 0, 0], [0, 1, 0], [0, 0, 1]]
    bins = found["calibration"]["winner"]["bins"]
    own = [1 / (1 + np.exp(-2))] * 2 + [np.exp(3) / (2 + np.exp(3)), np.exp(1) / (2 + np.exp(1))]
    assert sum(b["n"] * b["sure"] for b in bins) == pytest.approx(sum(own), abs=1e-5), "of the row's own task"


def test_entities_by_type() -> None:
    task = Tag(("O", "B-PER", "I-PER", "B-LOC", "I-LOC"))
    gold = objects([(1, 2, 0), (0, 3), (0,)])
    eye = 4 * np.eye(5, dtype=np.float32)
    unread = np.full((1, 5), 0, np.float32)
    unread[0, 0] = 1e-3  # a word behind the cut
    teacher = objects([eye[[1, 2, 0]], eye[[0, 3]], unread])
    winner = objects([eye[[1, 0, 0]], eye[[3, 3]], unread])
    found = plain(task, split(gold, ("Ada Lovelace left", "in Rome", "so")), winner, teacher)
    assert found["found"] == [
        {"label": "PER", "gold": 1, "winner": [0, 1, 1], "teacher": [1, 0, 0]},
        {"label": "LOC", "gold": 1, "winner": [1, 0, 1], "teacher": [1, 0, 0]},
    ]
    assert found["calibration"]["winner"]["n"] == 5, "words that nobody read are no decisions"
    assert found["right"] == {"both": 1, "winner": 0, "teacher": 2, "neither": 0, "p": 0.5}
    assert {(one["row"], one["on"], one["gold"]) for one in found["differ"]} == {
        (1, "Lovelace", "I-PER"),
        (2, "in", "O"),
    }


def test_answers_with_and_without() -> None:
    task = Answer()
    gold = objects([(("the red car", 4),), (), (("Rome", 0), ("in Rome", 0))])
    winner = objects([Found("red car", 8, 15, 0.9), Found("Oslo", 0, 4, 0.4), Found("", -1, -1, 0.6)])
    teacher = objects([Found("the red car", 4, 15, 0.8), Found("", -1, -1, 0.7), Found("in Rome", 0, 7, 0.5)])
    test = split(gold, pairs=("a b c", "d", "e" * 500))
    found = plain(task, test, winner, teacher)
    (table,) = found["confusion"]
    assert table["labels"] == ["with an answer", "without"]
    assert (table["winner"], table["teacher"]) == ([[1, 1], [1, 0]], [[2, 0], [0, 1]])
    assert found["right"]["both"] == 1 and found["right"]["teacher"] == 2, "articles do not count"
    assert [one["row"] for one in found["differ"]] == [2, 3], "the same words are no difference"
    assert found["differ"][1]["winner"] == {"label": "(none)", "p": 0.6, "right": False}
    assert found["differ"][1]["teacher"]["right"] and len(found["differ"][1]["pair"]) == CUT


def test_the_hash_of_decisions_sees_one_decision() -> None:
    test, winner, teacher = answered(CLASSIFY, TEXTS)
    other = winner.copy()
    other[3] = -other[3]
    first, again, changed = (portrait(CLASSIFY, test, x, teacher)["decided"] for x in (winner, 2 * winner, other))
    assert first == again != changed
