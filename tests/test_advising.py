"""`smidgen advise` on tiny models and data: the facts are those of the files, and the recipe that it prints runs."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import Ran, command, tree
from folders import data_files, model_folder, write_csv
from test_roads import facts

from smidgen import advising, probing
from smidgen.advising import Job, encoder, recipe, told
from smidgen.api import read_recipe
from smidgen.budget import Budget, Quality
from smidgen.caveats import foreseen
from smidgen.data import Data, load_data
from smidgen.planner import plan
from smidgen.probing import Steps, restless, without_blocks
from smidgen.recipe import Files, Use, dump, load
from smidgen.roads import Course
from smidgen.runner import run
from smidgen.source import resolve
from smidgen.splits import Split
from smidgen.tasks import Answer, Classify, Tag
from smidgen.tokens import whole_lengths


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    root = tmp_path_factory.mktemp("given")
    return model_folder(root / "model", blocks=3), data_files(root / "data")


@pytest.fixture(scope="module")
def ran(given: tuple[Path, dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> tuple[Ran, Path]:
    model, files = given
    file = tmp_path_factory.mktemp("advice") / "advised.yaml"
    data = " ".join(f"--{name} {path}" for name, path in files.items() if name != "unlabeled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probing, "STEPS", 2)
        patch.setattr(probing, "without_blocks", lambda _: ("static",))  # each takes a graph to make
        line = f"advise {model} {data} --max-size 1KB --min-quality 99%teacher --recipe {file} --json"
        return command(line), file


def test_it_says_what_there_is_and_what_it_takes(given: tuple[Path, dict[str, str]], ran: tuple[Ran, Path]) -> None:
    assert ran[0].code == 0, ran[0].err
    found = json.loads(ran[0].out)
    facts, measured = found["facts"], found["facts"]["measured"]
    assert (facts["texts"]["train"], facts["texts"]["test"], facts["model"]["blocks"]) == (64, 32, 3)
    shapes = [measured["whole"], measured["cut"], *measured["small"]]
    assert [(one["kind"], one["blocks"]) for one in shapes] == [("whole", 3), ("cut", 1), ("static", 0)]
    assert all(one["p50_ms"] > measured["tokenizer_ms"] > 0 and one["size_mb"] > 0 for one in shapes)
    assert measured["whole"]["size_mb"] > measured["cut"]["size_mb"]
    assert measured["run_mb"] > measured["bare_mb"] > 10 and measured["texts_per_s"] > 0
    assert 0 < measured["used"] <= measured["tokens"]
    taken = {road["name"]: road["taken"] for road in found["roads"]}
    assert taken["few labels"] and taken["tight size"] and not taken["long documents"]
    assert [check["check"] for check in found["checks"]][-1] == "unresolved"
    assert found["commands"][0] == f"smidgen run {ran[1]} --out out" and found["seconds"] > 0


def test_the_recipe_that_it_writes_is_one(given: tuple[Path, dict[str, str]], ran: tuple[Ran, Path]) -> None:
    assert ran[1].read_text(encoding="utf-8") == json.loads(ran[0].out)["recipe"]
    planned = plan(read_recipe(str(ran[1])))
    assert planned.stages[-1].leaves == "int8" and planned.data.train.source == given[1]["train"]
    line = shlex.split(json.loads(ran[0].out)["commands"][1])
    assert line[:3] == ["smidgen", "compress", str(given[0])] and "--max-size" in line and "--recipe" not in line


def test_nothing_is_left_behind_and_words_are_for_people(given: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    model, files = given
    before = tree(model.parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setattr(advising, "measure", lambda *_: facts().measured)
        found = command(f"advise {model} --train {files['train']} --dev {files['dev']} --tasks 3")
    assert found.code == 0, found.err
    assert tree(model.parent) == before and not list(tmp_path.iterdir())
    for words in ("model", "machine", "* many tasks", "The recipe", "tune.bitfit", "smidgen bundle", "--method bitfit"):
        assert words in found.out
    assert "schema: 1" in found.out


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--train none.csv", "none.csv: no such file"),
        ("--train {train} --max-latency 3", "wanted a number and a unit"),
        ("--train {train} --task mask_language", "Ask for the task that comes after it."),
    ],
)
def test_bad_input_is_one_clear_error(given: tuple[Path, dict[str, str]], line: str, words: str) -> None:
    found = command(f"advise {given[0]} {line.format(**given[1])}")
    assert found.code == 2 and words in found.err and "Traceback" not in found.err


# The recipe of every course can be planned.

COURSES = [
    Course(),
    Course(student="cut", blocks=2),
    Course(student="cut", blocks=1, vocabulary=True, grown=True),
    Course(student="cnn", grown=True),
    Course(student="static", vocabulary=True, shorter=0.3),
    Course(student="bilstm"),
    Course(vocabulary=True, window=64),
    Course(frozen=1, micro_tokens=2048),
    Course(deltas=True, tuned="lora"),
]


@pytest.mark.parametrize("chosen", COURSES, ids=str)
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("unlabeled", [False, True])
def test_every_course_is_a_recipe(
    given: tuple[Path, dict[str, str]], tmp_path: Path, chosen: Course, trained: bool, unlabeled: bool
) -> None:
    model = model_folder(tmp_path / "fitted", labels=("bad", "good")) if trained else given[0]
    files = Files(given[1]["train"], given[1]["dev"], unlabeled=given[1]["unlabeled"] if unlabeled else None)
    some = facts(trained=trained, unlabeled=24 * unlabeled)
    text = dump(recipe(some, chosen, Job(str(model), files, Budget())))
    planned = plan(load(text))
    assert planned.stages[-1].leaves == "int8"
    names = [one.stage.name for one in planned.stages]
    assert ("teacher" in names) == (not trained and not chosen.deltas) and ("student" in names) == bool(chosen.student)
    if chosen.student:
        student = planned.stages[names.index("student")].stage
        assert student.data == "+".join(["train", *["unlabeled"] * unlabeled, *["grown"] * chosen.grown])


def test_few_rows_train_few_numbers_for_longer(given: tuple[Path, dict[str, str]]) -> None:
    """As `smidgen tune` does: at least 500 steps of 32 rows, 16 epochs at most; all numbers keep their habit."""
    job = Job(str(given[0]), Files(given[1]["train"]), Budget())
    for rows, epochs in ((300, 16), (2000, 8), (6920, 5)):
        assert recipe(facts(train=rows), Course(deltas=True, tuned="lora"), job).stages[0].train.epochs == epochs
        teacher = recipe(facts(train=rows), Course(), job).stages[0]
        assert [use.method for use in teacher.methods] == ["tune.full"] and teacher.train.epochs == 3


def test_what_is_advised_trains(given: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    files = Files(given[1]["train"], given[1]["dev"])
    chosen = Course(student="cut", blocks=1, vocabulary=True, shorter=0.1)
    made = load(dump(recipe(facts(), chosen, Job(str(given[0]), files, Budget()))))
    stages = tuple(replace(s, train=replace(s.train, precision="float32")) for s in made.stages[:3])
    few = replace(stages[1], methods=(Use("prune.vocab", {"characters": "seen"}),))  # every word of these occurs
    done = run(plan(replace(made, stages=(stages[0], few, stages[2]))), tmp_path)
    assert [one.planned.stage.name for one in done] == ["teacher", "fewer-tokens", "student"]
    assert resolve(str(done[-1].artefact.path)).blocks == 1


def test_students_without_blocks_are_those_that_there_are() -> None:
    def of(task: Any, pairs: tuple[str, ...] | None) -> tuple[str, ...]:
        one = Split("train", ("a",), pairs, None, "f")
        return without_blocks(Data(task, one, one))

    assert of(Classify(("a", "b")), None) == ("cnn", "static") and of(Tag(("O", "B-x")), None) == ("bilstm", "static")
    assert of(Classify(("a", "b")), ("b",)) == ("bilstm",) and of(Answer(), ("b",)) == ()


# Facts.


def test_facts_of_texts_are_those_of_the_files(given: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    long = write_csv(tmp_path / "train.csv", [("good " * (60 if i == 0 else 4), "ab"[i == 1]) for i in range(20)])
    dev = write_csv(tmp_path / "dev.csv", [("x", "a"), ("y", "b"), ("z", "a")])
    source, data = resolve(str(given[0])), load_data(long, dev)
    found = told(data, source, 16)
    lengths = whole_lengths(source.path, data.train)
    assert found.longest == lengths.max() == 62 and found.p50 == 6 and found.max_length == 16
    assert found.rarest == ("b", 1) and found.floor == pytest.approx(2 / 3) and found.classes == 2
    assert set(found.lost) == {48} and found.lost[48] == pytest.approx(14 / lengths.sum()) and found.over == 0.05
    model = encoder(source, data)
    assert (model.blocks, model.hidden, model.limit, model.trained, model.mask) == (3, 32, 48, False, True)
    assert model.table == 120 * 32 and model.numbers == source.parameters


def test_steps_end_when_enough_were_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    from smidgen.errors import OutOfTime

    steps = Steps()
    with pytest.raises(OutOfTime):
        for _ in range(100):
            steps.to(1)
    assert len(steps.ends) == probing.STEPS + 1
    monkeypatch.setattr(probing, "ENOUGH", 0.0)
    slow = Steps()
    with pytest.raises(OutOfTime):
        for _ in range(100):
            slow.to(1)
    assert len(slow.ends) == 3, "two that count"


def test_a_busy_machine_is_told_of() -> None:
    assert restless(facts().measured) == "" and restless(facts(had=0.9).measured) == ""
    assert "the timing had 24% of a processor" in restless(facts(had=0.24).measured)


def test_what_a_test_set_can_tell_is_foreseen() -> None:
    """1.96 sqrt(0.05 / 103.84) = 4.3 points."""
    test = Split("test", tuple(map(str, range(100))), None, None, "test.csv")
    (found,) = foreseen(test, Quality(0.97, True, None, "97%teacher"))
    assert "100 rows of test tell differences of 4.3 points" in found.words and "97%teacher allows 3.0" in found.words
    assert (found.count, found.of) == (100, 206)
    for asked in (None, Quality(0.95, True, None, "95%teacher"), Quality(1.0, False, "accuracy", "1.0")):
        assert not list(foreseen(test, asked))


def test_what_a_test_set_can_tell_of_a_score_is_foreseen() -> None:
    """1.96 sqrt(0.9 * 0.1 / 100) = 5.9 points, and 0.98 with 3,600 rows."""
    asked = Quality(0.9, False, "accuracy", "accuracy>=0.9")
    test = Split("test", tuple(map(str, range(100))), None, None, "test.csv")
    (found,) = foreseen(test, asked)
    assert "100 rows of test tell such a score to 5.9 points either way; a model shows that it keeps" in found.words
    assert "About 3,457 rows would tell 1.0 points." in found.words and (found.count, found.of) == (100, 3457)
    assert not list(foreseen(replace(test, texts=tuple(map(str, range(3600)))), asked))
