"""The main job beyond one sentence and one BERT: every family, pairs, several labels, other teachers and students."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from folders import LABELS, PLAIN, POLAR, data_files, model_folder, sentences, write_tokenizer
from tiny import FAMILIES
from transformers import AutoModelForSequenceClassification

import smidgen
from smidgen import running
from smidgen import search as searching
from smidgen.data import read_split
from smidgen.deferral import Choice
from smidgen.measure import entries, speed
from smidgen.measure.peers import TorchModel
from smidgen.pairing import Pair
from smidgen.planner import plan
from smidgen.recipe import load as load_recipe
from smidgen.runner import run
from smidgen.runtime import Cascade, deployed_bytes

TRAINING = {"epochs": 1, "learning_rate": 1e-3, "batch_size": 8}


def chain(model: Path, data: dict[str, Any]) -> str:
    methods = [{"prune.layers": {"keep": 1}}, "distil.logits", {"distil.hidden": {"mapping": "last"}}]
    stages = [
        {"name": "teacher", "methods": ["tune.full"], "train": TRAINING},
        {"name": "student", "teacher": "teacher", "methods": methods, "train": TRAINING},
        {"methods": ["export.onnx"]},
        {"methods": ["quant.dynamic"]},
    ]
    return yaml.safe_dump({"model": str(model), "data": data, "stages": stages})


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_goes_the_whole_way(family: str, tmp_path: Path) -> None:
    """Teacher, half-depth student, graph with parity, int8; the folder reads back with plain transformers."""
    model, data = model_folder(tmp_path / "model", family), data_files(tmp_path / "data")
    done = run(plan(load_recipe(chain(model, data))), tmp_path / "stages")
    assert done[2].artefact.record["found"]["largest_difference"] <= 1e-4
    assert done[3].artefact.record["found"]["products_int8"] >= 6
    reloaded = AutoModelForSequenceClassification.from_pretrained(done[2].artefact.path)
    assert reloaded.config.num_hidden_layers == 1
    texts = [text for text, _ in sentences(40, seed=3)]
    logits = smidgen.load(done[2].artefact.path).outputs(texts)
    peer = TorchModel(done[2].artefact.path, smidgen.load(done[2].artefact.path).task)
    assert np.abs(peer.outputs(texts) - logits).max() <= 1e-4
    assert len(smidgen.load(done[3].artefact.path).predict(texts)) == 40


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few calls, and one way to run a folder: what is timed here is not judged."""
    monkeypatch.setattr(running, "tried", lambda search, folder: [])
    monkeypatch.setattr(speed, "BLOCK", 2)
    real = entries.time_all
    monkeypatch.setattr(entries, "time_all", lambda models, rows, calls: real(models, rows[:4], 2))


@pytest.mark.usefixtures("quick")
def test_a_classifier_is_the_teacher_as_it_stands(tmp_path: Path, tiny_data: dict[str, str]) -> None:
    model = model_folder(tmp_path / "model", labels=LABELS)
    before = {p.name: p.read_bytes() for p in model.iterdir()}
    report = smidgen.compress(
        str(model), **tiny_data, max_size="10MB", depths=(1,), out=tmp_path / "out", student_epochs=1, seeds=1
    )
    assert report["verdict"] == "met"
    assert [stage["name"] for stage in report["winner"]["lineage"]][:2] == ["student", "onnx"]  # and no teacher stage
    assert {p.name: p.read_bytes() for p in model.iterdir()} == before
    assert {b["name"] for b in report["baselines"]} == {
        "TF-IDF + logistic regression",
        "teacher, int8",
        f"{report['winner']['name']}, without distillation",
    }


@pytest.mark.usefixtures("quick")
def test_another_model_with_another_tokenizer_as_student(tmp_path: Path, tiny_data: dict[str, str]) -> None:
    teacher = model_folder(tmp_path / "teacher", labels=LABELS)
    student = model_folder(tmp_path / "student", "electra", blocks=1, seed=5)
    write_tokenizer(student, drop=("film", "great"))
    report = smidgen.compress(
        str(teacher), **tiny_data, max_size="10MB", students=[str(student)], depths=(2,), finalists=3,
        out=tmp_path / "out", student_epochs=1, seeds=1,
    )  # fmt: skip
    trained = {c["name"]: c for c in report["candidates"] if c["status"] in ("trained", "winner")}
    assert f"{student}, 1 block, int8" in trained
    assert "distil.hidden" not in str(trained[f"{student}, 1 block, int8"]["lineage"])


@pytest.mark.usefixtures("quick")
def test_a_cascade_may_win(tmp_path: Path, tiny_data: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of tiny models none is worth asking first, so the pair and the choice are ours; the rest is the command's."""
    asked: list[str] = []

    def pair(task: Any, parts: Any, *given: Any) -> list[Pair]:
        small, large = sorted(parts, key=lambda part: part.size_mb)[:2]
        asked.extend((small.name, large.name))
        times = {"p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": 2.0, "mean_ms": 1.5}
        return [Pair(small.name, large.name, Choice(1.0, 0.9, 0.5, 1.0), times, small.size_mb + large.size_mb)]

    monkeypatch.setattr(searching, "cascades", pair)
    monkeypatch.setattr(
        searching, "pick", lambda numbers, by: next((n for n in numbers if n.endswith("cascade")), None)
    )
    model = model_folder(tmp_path / "model", labels=LABELS)
    out = tmp_path / "out"
    report = smidgen.compress(str(model), **tiny_data, max_size="10MB", depths=(1,), out=out, student_epochs=1, seeds=1)
    assert report["verdict"] == "met" and report["winner"]["name"] == f"{asked[0]} then {asked[1]}, cascade"
    winner = smidgen.load(out / "winner")
    assert isinstance(winner, Cascade) and deployed_bytes(winner.folder) / 1e6 == report["winner"]["numbers"]["size_mb"]
    assert all((out / "winner" / level / "serve.json").is_file() for level in ("small", "large"))
    rows = read_split(tiny_data["test"], "test", winner.task)
    said, by = winner.answered(winner.rows(rows.texts))
    alone = [smidgen.load(out / "winner" / level).outputs(rows.texts) for level in ("small", "large")]
    assert np.allclose(said, np.where(by[:, None] == 0, *alone), atol=1e-5)
    assert report["winner"]["numbers"]["quality"]["value"] == winner.task.score(said, rows.labels)
    assert "cascade" in (out / "report.html").read_text(encoding="utf-8")
    timing = ("times as fast", "p50", "p95", "p99", "texts a second", "peak memory")
    claims = {one["claim"]: one["passed"] for one in smidgen.verify(out)}
    assert all(passed for claim, passed in claims.items() if not claim.startswith(timing)), claims


@pytest.mark.usefixtures("quick")
def test_pairs_with_several_labels(tmp_path: Path) -> None:
    """Two texts a row; a row may be `good`, `bad`, both or neither; written as lists in jsonl."""
    draw = random.Random(0)

    def write(name: str, count: int) -> str:
        rows = []
        for i in range(count):
            labels = [label for label in LABELS if draw.random() < 0.5]
            words = [draw.choice(POLAR[label]) for label in labels]
            first, second = draw.choices(PLAIN, k=4), [*draw.choices(PLAIN, k=3), *words, f"{name[0]}", *str(i)]
            rows.append({"text": " ".join(first), "text_pair": " ".join(second), "label": labels})
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
        return str(path)

    files = {name: write(name, count) for name, count in (("train", 60), ("dev", 24), ("test", 30))}
    model = model_folder(tmp_path / "model")
    report = smidgen.compress(
        str(model),
        **files,
        max_size="10MB",
        depths=(1,),
        out=tmp_path / "out",
        teacher_epochs=1,
        student_epochs=1,
        seeds=1,
    )
    assert report["task"] == {"name": "classify", "labels": list(LABELS), "multi_label": True, "metric": "f1"}
    winner = smidgen.load(tmp_path / "out" / "winner")
    (answer,) = winner.predict([{"text": "a film", "text_pair": "so good"}], top_k=None)
    assert {one["label"] for one in answer} == set(LABELS)
    assert all(0 <= one["score"] <= 1 for one in answer)


def test_whole_numbers_as_labels(tmp_path: Path) -> None:
    """`0` and `1` stay `0` and `1`, in this order, however they are written."""
    files = {}
    for name, seed in (("train", 1), ("dev", 2)):
        path = tmp_path / f"{name}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["sentence", "label"])
            writer.writerows((f"{name} {text}", ["1", "0"][label == "bad"]) for text, label in sentences(20, seed))
        files[name] = str(path)
    text = yaml.safe_dump(
        {"model": str(model_folder(tmp_path / "model")), "data": files, "stages": [{"methods": ["tune.full"]}]}
    )
    assert plan(load_recipe(text)).data.task.labels == ("0", "1")
