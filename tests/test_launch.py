"""The command under torchrun and accelerate launch: two processes make what one makes, and one of them speaks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from folders import model_folder
from safetensors.torch import load_file

from smidgen.artefact import open_artefact
from smidgen.planner import plan
from smidgen.recipe import load
from smidgen.runner import Done, run

ROOT = Path(__file__).parent.parent
LAUNCHERS = {
    "torchrun": "torch.distributed.run --standalone --nproc-per-node 2",
    "accelerate": "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no "
    "--dynamo_backend no --main_process_port 0",  # without --multi_gpu it would start processors' processes by MPI
}
TRAIN = {"epochs": 2, "learning_rate": 2e-3, "batch_size": 16, "precision": "float32", "micro_tokens": 150}
TEACHER = {"name": "teacher", "methods": {"tune.full": {}}, "train": TRAIN}
STUDENT = {
    "name": "student",
    "teacher": "teacher",
    "data": "train+unlabeled",
    "methods": {"prune.layers": {"keep": 1}, "tune.full": {}, "distil.logits": {}},
    "train": TRAIN,
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_data: dict[str, str]) -> Path:
    """Of a model without dropout, whose draws are each process's own."""
    folder = tmp_path_factory.mktemp("launch")
    model = model_folder(folder / "bert")
    config = json.loads((model / "config.json").read_text())
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (model / "config.json").write_text(json.dumps(config | still))
    stages = [TEACHER, STUDENT]
    text = yaml.safe_dump({"model": str(model), "data": tiny_data, "stages": stages}, sort_keys=False)
    (folder / "recipe.yaml").write_text(text)
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def one(recipe: Path) -> list[Done]:
    return run(plan(load(recipe.read_text())), recipe.parent / "one" / "stages")


def launched(launcher: str, line: list[str], marks: Path) -> subprocess.CompletedProcess[str]:
    """The command in two processes; each leaves a file in `marks`."""
    marks.mkdir()
    mark = (
        "import os, pathlib\nif rank := os.environ.get('RANK'):\n    pathlib.Path(__file__).with_name(rank).touch()\n"
    )
    (marks / "sitecustomize.py").write_text(mark)
    path = os.pathsep.join([str(marks), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    words = [sys.executable, "-m", *LAUNCHERS[launcher].split(), "-m", "smidgen", *line]
    ran = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=200)
    assert sorted(mark.name for mark in marks.glob("?")) == ["0", "1"], ran.stderr[-2000:]
    return ran


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_make_what_one_makes(launcher: str, recipe: Path, one: list[Done], tmp_path: Path) -> None:
    ran = launched(
        launcher, ["run", str(recipe), "--out", str(tmp_path), "--json", "--track", "tensorboard"], tmp_path / "marks"
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert [told["id"] for told in json.loads(ran.stdout)] == [done.artefact.id for done in one]
    assert ran.stderr.count("> teacher: tune.full") == ran.stderr.count("> student: prune.layers") == 1
    assert len(list((tmp_path / "logs").glob("*/events*"))) == 2, "one of each training, of the main process"
    for done in one:
        made = open_artefact(tmp_path / "stages" / done.artefact.id, deep=True)
        told, expected = (load_file(folder / "model.safetensors") for folder in (made.path, done.artefact.path))
        for name, values in expected.items():
            if not name.endswith("key.bias"):  # shifts all scores of a query alike: Adam's steps follow the rounding
                torch.testing.assert_close(told[name], values, rtol=0, atol=2e-6)
        for entry, other in zip(entries(made.record), entries(done.artefact.record), strict=True):
            assert entry["dev"] == other["dev"] and entry["terms"] == pytest.approx(other["terms"], rel=1e-4)
    assert not list((tmp_path / "stages").glob(".*"))


def entries(record: Any) -> list[dict[str, Any]]:
    return record["history"]["entries"] if "history" in record else []


def test_what_is_no_single_training_is_refused_and_said_once(recipe: Path, tmp_path: Path) -> None:
    data = yaml.safe_load(recipe.read_text())
    line = ["compress", data["model"], "--train", data["data"]["train"], "--out", str(tmp_path / "out")]
    ran = launched("torchrun", line, tmp_path / "marks")
    assert ran.returncode == 1 and not (tmp_path / "out").exists()
    assert ran.stderr.count("smidgen compress is one process, which torchrun and accelerate launch cannot") == 1
