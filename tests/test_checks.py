"""What has to be known of data: every finding is counted, named by its row, and said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from commands import command
from folders import data_files, model_folder, write_csv
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.checks import after, before, conflicts, constant, cut, few, lacking, repeats
from smidgen.data import load_data
from smidgen.encoded import objects
from smidgen.planner import plan
from smidgen.recipe import Files, Recipe, Stage, Use
from smidgen.splits import Split
from smidgen.tasks import Answer, Classify, MaskLanguage, Several, Tag
from smidgen.tokens import encode, whole_lengths

TASK = Classify(labels=("a", "b", "c"))


def split(name: str, texts: str, labels: list[int], rows: list[int] | None = None) -> Split:
    return Split(name, tuple(texts.split()), None, np.array(labels), f"{name}.csv", rows)


def test_conflicts_in_a_split_are_rows_with_a_partner() -> None:
    train = split("train", "x y x z x y", [0, 1, 1, 2, 0, 1], rows=[2, 3, 5, 6, 7, 8])
    (found,) = conflicts(TASK, train)
    assert (found.check, found.split, found.count, found.of) == ("conflicts", "train", 3, 6)
    assert found.rows == ((2, 5), (5, 2), (7, 5)), "y twice with one label is none"
    assert found.words == "train.csv: 3 of 6 rows of train (50.0%) have other labels in other rows, as rows 2 and 5."


def test_conflicts_with_train_are_of_the_same_text() -> None:
    train, test = split("train", "x y z", [0, 1, 2]), split("test", "y x new", [1, 2, 0])
    (found,) = conflicts(TASK, test, train)
    assert found.words == (
        "test.csv: 1 of 3 rows of test (33.3%) has other labels in train, as row 2 of test and row 1 of train."
    )
    assert found.to_data() == {
        "check": "conflicts", "split": "test", "count": 1, "of": 3, "words": found.words, "rows": ((2, 1),)
    }  # fmt: skip
    assert not list(conflicts(TASK, split("test", "x y", [0, 1]), train))


@given(st.lists(st.tuples(st.sampled_from("pqrs"), st.integers(0, 2)), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_conflicts_by_their_definition(rows: list[tuple[str, int]]) -> None:
    one = Split("train", tuple(text for text, _ in rows), None, np.array([label for _, label in rows]), "f")
    expected = sum(any(text == other and label != its for other, its in rows) for text, label in rows)
    assert sum(found.count for found in conflicts(TASK, one)) == expected


def test_conflicts_know_tasks_tags_answers_and_several_labels() -> None:
    two = Several(("one/no", "one/yes", "two/no", "two/yes"))
    assert not list(conflicts(two, split("train", "x x", [0, 3]))), "of two tasks"
    assert list(conflicts(two, split("train", "x x", [0, 1])))
    tags = Split("train", ("u v", "u v"), None, objects([(0, 1), (0, 0)]), "f")
    assert "other tags" in next(conflicts(Tag(("O", "B-x")), tags)).words
    spans = Split("train", ("q", "q"), ("c", "c"), objects([(("c", 0),), ()]), "f")
    assert "other answers" in next(conflicts(Answer(), spans)).words
    many = Split("train", ("x", "x"), None, np.array([[1, 0], [1, 1]], np.float32), "f")
    assert list(conflicts(Classify(("a", "b"), multi_label=True), many))


def test_classes_that_are_rare_or_not_there() -> None:
    train = split("train", " ".join(map(str, range(9))), [0] * 5 + [1] * 4)
    (rare,) = few(TASK, train)
    assert rare.words == "train.csv: fewer than 5 examples of b (4), c (0)." and (rare.count, rare.of) == (2, 3)
    (gone,) = lacking(TASK, split("test", "p q", [0, 0]), train)
    assert gone.words == "test.csv: no example of b in test, whose score says nothing of it." and gone.count == 1
    two = Several(("one/no", "one/yes", "two/no", "two/yes"))
    whole, part = split("train", "r s t u", [0, 1, 2, 3]), split("dev", "v w", [0, 0])
    assert [check.words for check in lacking(two, part, whole)] == [
        "dev.csv: no row of dev is of the task two.",
        "dev.csv: no example of one/yes in dev, whose score says nothing of it.",
    ]


@pytest.mark.parametrize(("metric", "score"), [("accuracy", "75.0%"), ("f1", "42.9%")])
def test_one_class_that_is_nearly_all_tells_what_it_scores(metric: str, score: str) -> None:
    """3 of 4 right; F1 is 2 * 3 / 7 of one class and 0 of the other, of which the mean is 3 / 7."""
    train, test = split("train", "m n o p q", [1, 1, 1, 1, 0]), split("test", "e f g h", [1, 1, 1, 0])
    (found,) = constant(Classify(("a", "b"), metric=metric), train, test)
    assert (found.count, found.of) == (4, 5)
    assert found.words == (
        f"train.csv: 80.0% of train is 'b'. A model that always answers the most frequent label has an {metric} of "
        f"{score} on test."
    )
    assert not list(constant(TASK, split("train", "m n o p", [1, 1, 1, 0]), test)), "three quarters"


def test_repeats_are_counted_with_their_rows() -> None:
    train, test = split("train", "x y x", [0, 1, 0], [2, 3, 4]), split("test", "new x x", [0, 0, 0], [2, 3, 4])
    (found,) = repeats(test, train)
    assert (found.count, found.rows) == (2, ((3, 2), (4, 2))), "the first of train that is the same"
    assert not list(repeats(split("test", "new", [0]), train))


def test_what_is_cut_is_exact() -> None:
    lengths = np.array([4, 12, 10, 30])  # 2 + 20 of 56 are lost
    (found,) = cut(split("train", "e f g h", [0] * 4, [2, 4, 6, 8]), lengths, 10)
    assert found.words == (
        "train.csv: 2 of 4 texts of train (50.0%) are cut at 10 tokens, which loses 39.29% of all tokens; row 8 has 30."
    )
    assert found.rows == ((4,), (8,))
    assert not list(cut(split("train", "e", [0]), np.array([10]), 10))


@pytest.mark.parametrize("pairs", [None, ("so dull", "", "a great film")])
def test_whole_lengths_are_those_of_texts_that_are_not_cut(tmp_path: Path, pairs: tuple[str, ...] | None) -> None:
    folder, texts = model_folder(tmp_path), ("a good film", "xyz", "very " * 90)
    task = Several(("m/a", "m/b")) if pairs else TASK
    lengths = whole_lengths(folder, Split("train", texts, pairs, None, "f"))
    assert lengths.tolist() == encode(task, folder, texts, pairs, 10_000).lengths.tolist() and lengths[2] > 90


def test_nothing_is_said_of_sound_data() -> None:
    train, dev = split("train", " ".join(map(str, range(20))), [0, 1] * 10), split("dev", "p q", [0, 1])
    two = Classify(("a", "b"))
    assert not [*before(two, train, dev, None, None), *after(two, train, dev, None)]
    bare = Split("train", ("p", "q"), None, MaskLanguage().no_labels(2), "f")
    assert not [*before(MaskLanguage(), bare, None, None, None), *after(MaskLanguage(), bare, bare, None)]


def test_rows_are_lines_of_the_file_also_of_a_dev_set_that_was_taken(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "train.csv", [(f"text {i}", "ab"[i % 2]) for i in range(40)])
    data = load_data(file)
    assert [data.dev.row(i) for i in range(len(data.dev))] == [2 + int(text.split()[1]) for text in data.dev.texts]
    assert data.train.row(0) == 2 + int(data.train.texts[0].split()[1])
    assert Split("x", ("a",), None, None, "f").row(0) == 1


def test_plan_tells_what_is_cut_and_keeps_it_as_data(tmp_path: Path) -> None:
    model, files = model_folder(tmp_path / "model"), data_files(tmp_path / "data")
    recipe = Recipe(str(model), Files(files["train"], files["dev"], max_length=6), (Stage("t", (Use("tune.full"),)),))
    whole = whole_lengths(model, plan(recipe).data.train)
    (found,) = (check for check in plan(recipe).checks if check.split == "train")
    assert (found.check, found.count, found.of) == ("cut", int((whole > 6).sum()), 64)
    ran = command(f"plan student --model {model} --train {files['train']} --dev {files['train']} --json")
    assert ran.code == 2
    write_csv(tmp_path / "dev.csv", [("a good film", "bad"), ("a bad film", "bad")])
    ran = command(f"plan student --model {model} --train {files['train']} --dev {tmp_path / 'dev.csv'} --json")
    said = json.loads(ran.out)
    assert [(check["check"], check["split"], check["count"]) for check in said["checks"]] == [("lacking", "dev", 1)]
    assert said["warnings"] == [said["checks"][0]["words"]]


def test_a_length_that_fits_the_data_is_not_told_of() -> None:
    lengths = np.array([*[9] * 99, 11])
    (few_,), (more,) = (list(cut(split("train", "w " * 100, [0] * 100), lengths, most)) for most in (10, 8))
    assert (few_.count, few_.loud) == (1, False) and (more.count, more.loud) == (100, True)
