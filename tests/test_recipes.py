"""The packaged recipes: each is whole, says whose it is, and runs on a tiny model and tiny data."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from folders import data_files, model_folder
from test_several import rows_of as rows_of_tasks
from test_several import write as write_csv
from test_tag import rows_of, write

import smidgen
from smidgen.api import read_recipe
from smidgen.planner import plan
from smidgen.recipe import Files, Recipe, Training, Use, packaged
from smidgen.runner import run

SHORT = Training(epochs=0.5, learning_rate=1e-3, batch_size=8, precision="float32")
OTHER = {"distilbert", "tinybert-general", "cnn-lstm-tagger", "multitask"}  # of other tasks: tests of their own


def small(recipe: Recipe) -> Recipe:
    """The same stages in a moment: half an epoch, few copies, a narrow BiLSTM."""
    less: dict[str, dict[str, Any]] = {
        "data.noise": {"copies": 1, "tags": "learned"},
        "data.neighbours": {"copies": 1, "k": 3},
        "student.bilstm": {"embedding": 8, "width": 8},
        "prune.vocab": {"characters": "seen"},  # every word occurs
        "student.mobile": {"width": 16, "inner": 8, "heads": 2, "embedding": 8},
    }

    def use(one: Use) -> Use:
        return Use(one.method, {**one.settings, **less.get(one.method, {})})

    stages = tuple(replace(s, train=SHORT, methods=tuple(map(use, s.methods))) for s in recipe.stages)
    return replace(recipe, stages=stages)


@pytest.mark.parametrize("name", sorted(packaged()))
def test_a_recipe_says_whose_it_is_and_how_to_run_it(name: str) -> None:
    text = packaged()[name].read_text(encoding="utf-8")
    comment = text.partition("schema:")[0]
    assert re.search(r"arXiv:\d{4}\.\d{5}", comment) or name == "student"
    assert f"  smidgen run {name}" in comment
    assert f"name: {name}\n" in text


@pytest.mark.parametrize("name", sorted(set(packaged()) - OTHER))
def test_a_recipe_runs(name: str, tmp_path: Path) -> None:
    files = data_files(tmp_path / "data")
    model = model_folder(tmp_path / "model", blocks=2 if "attention" in name else 4)  # its graph takes long to make
    given = Files(files["train"], files["dev"], unlabeled=files["unlabeled"])
    done = run(plan(small(read_recipe(name, str(model), given))), tmp_path / "stages")
    last = done[-1].artefact
    assert last.form == "int8"
    assert all(a["label"] in ("bad", "good") for a in smidgen.load(last.path).predict(["a good film", "bad"]))


@pytest.mark.parametrize("name", ["cnn-lstm-tagger", "xtremedistil"])
def test_a_recipe_tags(name: str, tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", rows_of(60, 0))
    bare = write(tmp_path / "bare.jsonl", [{"tokens": row["tokens"]} for row in rows_of(30, 1)])
    recipe = read_recipe(name, str(model_folder(tmp_path / "model")), Files(train, unlabeled=bare), "tag")
    done = run(plan(small(recipe)), tmp_path / "stages")
    found = smidgen.load(done[-1].artefact.path).predict(["so the zadig quix was here", "it was"])
    assert len(found) == 2 and all({"entity_group", "score", "word"} <= set(e) for text in found for e in text)


def test_as_many_heads_go_by_importance_as_by_chance(tmp_path: Path) -> None:
    files, model = data_files(tmp_path / "data"), model_folder(tmp_path / "model", blocks=4)
    recipe = small(read_recipe("michel-heads", str(model), Files(files["train"], files["dev"])))
    recipe = replace(recipe, stages=tuple(s for s in recipe.stages if s.name in ("teacher", "heads", "random")))
    _, *both = run(plan(recipe), tmp_path / "stages")
    told = [done.artefact.record["found"]["prune.heads"] for done in both]
    assert [sum(each["after"]) for each in told] == [10, 10] and told[0]["before"] == [4] * 4
    assert ["importance" in each for each in told] == [True, False]
    assert both[0].artefact.record["edits"] != both[1].artefact.record["edits"]
    assert both[0].artefact.record["parent"] == both[1].artefact.record["parent"]


def test_the_student_of_several_tasks(tmp_path: Path) -> None:
    train = write_csv(tmp_path / "train.csv", rows_of_tasks(40, 0))
    recipe = small(read_recipe("multitask", str(model_folder(tmp_path / "model")), Files(train)))
    done = run(plan(recipe), tmp_path / "stages")
    model = smidgen.load(done[-1].artefact.path)
    assert done[-1].artefact.form == "int8"
    found = model.predict(["a good film", "bad"], ["", "a sad play"])
    assert [list(each) for each in found] == [["mood", "same"]] * 2


def test_gates_cut_to_the_share_that_is_asked(tmp_path: Path) -> None:
    files, model = data_files(tmp_path / "data"), model_folder(tmp_path / "model", blocks=4)
    recipe = small(read_recipe("cofi", str(model), Files(files["train"], files["dev"])))
    recipe = replace(recipe, stages=tuple(s for s in recipe.stages if s.name in ("teacher", "pruned")))
    *_, pruned = run(plan(recipe), tmp_path / "stages")
    told = pruned.artefact.record["found"]["prune.gates"]
    assert told["before"] == [[4, 64]] * 4 and told["unit"] == "weights" and 0.3 < told["share"] <= 0.4
    assert {edit["edit"] for edit in pruned.artefact.record["edits"]} <= {"KeepHeads", "KeepHidden", "KeepWidth"}
    terms = pruned.artefact.record["history"]["entries"][-1]["terms"]
    assert {name.rpartition(".")[0] for name in terms} >= {"prune.gates", "distil.logits"}
