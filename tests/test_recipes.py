"""The packaged recipes: each is whole, says whose it is, and runs on a tiny model and tiny data."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from folders import data_files, model_folder
from test_tag import rows_of, write

import smidgen
from smidgen.api import read_recipe
from smidgen.planner import plan
from smidgen.recipe import Files, Recipe, Training, Use, packaged
from smidgen.runner import run

SHORT = Training(epochs=0.5, learning_rate=1e-3, batch_size=8, precision="float32")
OTHER = {"distilbert", "tinybert-general", "cnn-lstm-tagger"}  # of other tasks: tests of their own


def small(recipe: Recipe) -> Recipe:
    """The same stages in a moment: half an epoch, few copies, a narrow BiLSTM."""
    less: dict[str, dict[str, Any]] = {
        "data.noise": {"copies": 1, "tags": "learned"},
        "data.neighbours": {"copies": 1, "k": 3},
        "student.bilstm": {"embedding": 8, "width": 8},
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


def test_the_tagger_of_words_and_characters(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", rows_of(60, 0))
    recipe = small(read_recipe("cnn-lstm-tagger", str(model_folder(tmp_path / "model")), Files(train)))
    done = run(plan(recipe), tmp_path / "stages")
    found = smidgen.load(done[-1].artefact.path).predict(["so the zadig quix was here", "it was"])
    assert len(found) == 2 and all({"entity_group", "score", "word"} <= set(e) for text in found for e in text)
