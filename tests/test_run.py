"""Whole runs: what is on disk is used again, what is left is finished, and a kill at any moment changes nothing."""

from __future__ import annotations

import json
import os
import random
import socket
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from children import start
from folders import LABELS

from smidgen import runner
from smidgen.artefact import file_hash, open_artefact
from smidgen.errors import SmidgenError
from smidgen.method import Context
from smidgen.planner import Plan, plan
from smidgen.recipe import load
from smidgen.runner import Done, run
from smidgen.shards import open_shards
from smidgen.source import resolve

TRAIN = {"epochs": 2, "learning_rate": 2e-3, "batch_size": 16, "precision": "float32"}
TEACHER = {"name": "teacher", "methods": {"tune.full": {}}, "train": TRAIN}
STUDENT = {
    "name": "student",
    "teacher": "teacher",
    "data": "train+unlabeled",
    "methods": {
        "prune.layers": {"keep": 1},
        "tune.full": {},
        "distil.logits": {},
        "distil.hidden": {"mapping": "last", "projection": "always"},
    },
    "train": TRAIN,
}
GRAPH = {"name": "graph", "methods": {"export.onnx": {}}}
SMALL = {"name": "small", "methods": {"quant.dynamic": {}}}


def planned(model: Path, data: dict[str, str], *stages: dict[str, Any], **more: Any) -> Plan:
    text = yaml.safe_dump({"model": str(model), "data": data, "stages": list(stages), **more}, sort_keys=False)
    return plan(load(text))


def student_with(**settings: Any) -> dict[str, Any]:
    return STUDENT | {"methods": STUDENT["methods"] | {"distil.logits": settings}}


def hashes(root: Path) -> dict[str, str]:
    """The weights of every artefact under `root`; each of them is whole."""
    found = {}
    for path in root.iterdir():
        if path.name.startswith("labels-"):
            for shard in open_shards(path):
                assert len(shard["starts"]) == len(shard["keys"]) + 1 == len(shard["logits"]) + 1
        elif not path.name.startswith("."):
            assert open_artefact(path, deep=True).id == path.name
            found[path.name] = file_hash(path / "model.safetensors")
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stages")


@pytest.fixture(scope="module")
def finished(root: Path, tiny_bert: Path, tiny_data: dict[str, str]) -> tuple[Plan, list[Done]]:
    made = planned(tiny_bert, tiny_data, TEACHER, STUDENT, GRAPH, SMALL)
    return made, run(made, root)


def logits_of(folder: Path, texts: list[str]) -> np.ndarray:
    """What plain transformers makes of a folder."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    model = AutoModelForSequenceClassification.from_pretrained(str(folder)).eval()
    with torch.inference_mode():
        return model(**tokenizer(texts, padding=True, truncation=True, return_tensors="pt")).logits.numpy()


def test_every_stage_leaves_its_artefact(finished: tuple[Plan, list[Done]], root: Path) -> None:
    made, done = finished
    assert [d.artefact.form for d in done] == ["float", "float", "onnx", "int8"]
    assert [d.artefact.path for d in done] == [root / p.id for p in made.stages]
    assert not any(d.reused for d in done)
    assert set(hashes(root)) == {p.id for p in made.stages}
    assert not list(root.glob(".*"))
    records = [json.loads((d.artefact.path / "smidgen.json").read_text()) for d in done]
    assert records == [d.artefact.record for d in done]
    assert [r["edits"] for r in records] == [[], *[[{"edit": "KeepBlocks", "blocks": [1]}]] * 3]
    assert [len(r["lineage"]) for r in records] == [1, 2, 3, 4]
    assert [r["parent"] for r in records[1:]] == [r["id"] for r in records[:-1]]
    assert {r["model"] for r in records} == {str(made.recipe.model)}
    assert records[1]["history"]["best"] >= 0.5
    assert records[2]["found"]["largest_difference"] < 1e-4
    assert records[3]["found"]["products_int8"] > 0
    weights = {(d.artefact.path / "onnx" / "model.onnx").stat().st_size for d in done[2:]}
    assert len(weights) == 2


def test_the_pruned_student_is_a_plain_hugging_face_folder(finished: tuple[Plan, list[Done]]) -> None:
    made, done = finished
    folder, dev = done[1].artefact.path, made.data.dev
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["num_hidden_layers"]) == ("bert", 1)
    assert config["id2label"] == {"0": LABELS[0], "1": LABELS[1]}
    logits = logits_of(folder, list(dev.texts))
    assert made.data.task.score(logits, dev.labels) == done[1].artefact.record["history"]["best"]
    assert resolve(str(folder)).id == made.stages[1].id


def test_the_graphs_predict_like_the_student(finished: tuple[Plan, list[Done]]) -> None:
    from smidgen.runtime import load as open_model

    made, done = finished
    texts = list(made.data.test.texts)
    logits = logits_of(done[1].artefact.path, texts)
    exact = open_model(done[2].artefact.path, threads=1)
    assert exact.labels == LABELS
    np.testing.assert_allclose(exact.outputs(texts), logits, atol=1e-4)
    rough = open_model(done[3].artefact.path, threads=1).outputs(texts)
    assert 0 < np.abs(rough - logits).max() < 0.2 * np.abs(logits).max()


def test_a_second_run_uses_everything_again(
    finished: tuple[Plan, list[Done]], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, first = finished
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    monkeypatch.setattr(runner, "run_stage", None)
    started = time.monotonic()
    again = run(made, root)
    assert time.monotonic() - started < 1
    assert all(d.reused for d in again)
    assert [d.artefact for d in again] == [d.artefact for d in first]
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_a_changed_setting_redoes_its_stage_and_what_follows(
    finished: tuple[Plan, list[Done]], root: Path, tiny_bert: Path, tiny_data: dict[str, str]
) -> None:
    made, _ = finished
    more = {"name": "more", "methods": {"tune.full": {}}, "train": TRAIN}
    changed = planned(tiny_bert, tiny_data, TEACHER, student_with(temperature=5.0), more)
    labels = {path: path.stat().st_mtime_ns for path in root.glob("labels-*/shard-*")}
    again = run(changed, root)
    assert [d.reused for d in again] == [True, False, False]
    assert changed.stages[0].id == made.stages[0].id
    assert changed.stages[1].id != made.stages[1].id
    assert again[1].artefact.record["methods"]["distil.logits"]["temperature"] == 5.0
    assert {path: path.stat().st_mtime_ns for path in root.glob("labels-*/shard-*")} == labels  # not asked again
    assert file_hash(again[1].artefact.path / "model.safetensors") != hashes(root)[made.stages[1].id]
    assert len(again[2].artefact.record["lineage"]) == 3


def test_ids_follow_from_what_a_result_depends_on(tiny_bert: Path, tiny_data: dict[str, str]) -> None:
    def ids(*stages: dict[str, Any], data: dict[str, str] = tiny_data, **more: Any) -> list[str]:
        return [p.id for p in planned(tiny_bert, data, *stages, **more).stages]

    plain = ids(TEACHER, STUDENT, GRAPH, SMALL)
    assert ids(TEACHER, STUDENT, GRAPH, SMALL, data={k: v for k, v in tiny_data.items() if k != "test"}) == plain
    assert ids(TEACHER, STUDENT, GRAPH | {"name": "other"}, SMALL) == plain
    assert ids(TEACHER, student_with(temperature=2.0), GRAPH, SMALL) == plain  # the default, written out

    def kept(other: list[str]) -> list[bool]:
        return [a == b for a, b in zip(plain, other, strict=True)]

    fewer = {k: v for k, v in tiny_data.items() if k != "unlabeled"}
    assert kept(ids(TEACHER, STUDENT | {"data": "train"}, GRAPH, SMALL, data=fewer)) == [True, False, False, False]
    assert kept(ids(TEACHER, STUDENT | {"seed": 3}, GRAPH, SMALL)) == [True, False, False, False]
    assert kept(ids(TEACHER, STUDENT, GRAPH, SMALL, seed=3)) == [False] * 4
    longer = TEACHER | {"train": TRAIN | {"epochs": 3}}
    assert kept(ids(longer, STUDENT, GRAPH, SMALL)) == [False] * 4
    tighter = GRAPH | {"methods": {"export.onnx": {"tolerance": 1e-3}}}
    assert kept(ids(TEACHER, STUDENT, tighter, SMALL)) == [True, True, False, False]


def test_same_seed_same_weights_in_another_folder(
    finished: tuple[Plan, list[Done]], root: Path, tmp_path: Path, tiny_bert: Path, tiny_data: dict[str, str]
) -> None:
    again = run(planned(tiny_bert, tiny_data, TEACHER, STUDENT), tmp_path)
    mine = hashes(root)
    assert [file_hash(d.artefact.path / "model.safetensors") for d in again] == [mine[d.artefact.id] for d in again]


# What is published has been read back.


@pytest.fixture
def cut_only(tiny_classifier: Path, tiny_data: dict[str, str]) -> Plan:
    return planned(tiny_classifier, tiny_data, {"name": "cut", "methods": {"prune.layers": {"keep": 1}}})


def test_lost_edits_are_noticed(cut_only: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from smidgen.surgery import apply

    monkeypatch.setattr(Context, "edit", lambda self, edit: apply(self.model, edit) and None)
    with pytest.raises(SmidgenError, match=r"replaying its edits gives another shape .*nothing was written"):
        run(cut_only, tmp_path)
    assert not list(tmp_path.iterdir())


def test_edits_that_do_not_say_all_are_noticed(cut_only: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from smidgen import surgery

    def edit(self: Context, edit: Any) -> None:
        surgery.apply(self.model, edit)
        self.model.bert.encoder.layer[0].intermediate.intermediate_act_fn = torch.nn.ReLU()
        self.edits.append(edit)

    monkeypatch.setattr(Context, "edit", edit)
    with pytest.raises(SmidgenError, match=r"replaying its edits gives other outputs \(by .*\); nothing was written"):
        run(cut_only, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_reads_back_otherwise_is_noticed(
    cut_only: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import PreTrainedModel

    real = PreTrainedModel.save_pretrained

    def save(self: PreTrainedModel, folder: Path) -> None:
        with torch.no_grad():
            self.classifier.bias += 0.1
            real(self, folder)
            self.classifier.bias -= 0.1

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", save)
    with pytest.raises(SmidgenError, match=r"reloading its folder gives other outputs \(by 0\.1\); nothing was"):
        run(cut_only, tmp_path)
    assert not list(tmp_path.iterdir())


# Killed.


def go(folder: Path, root: Path) -> None:
    made = plan(load((folder / "recipe.yaml").read_text()))
    root.mkdir(exist_ok=True)
    (folder / "began").touch()
    run(made, root, checkpoint_seconds=0)


def began(folder: Path, root: Path) -> BaseProcess:
    """A run in a process of its own, once it is under way."""
    (folder / "began").unlink(missing_ok=True)
    process = start(go, folder, root)
    while not (folder / "began").exists():
        assert process.is_alive()
        time.sleep(0.002)
    return process


def killed_after(process: BaseProcess, seconds: float) -> bool:
    """Was it still at work?"""
    process.join(seconds)
    if not process.is_alive():
        assert process.exitcode == 0
        return False
    process.kill()
    process.join(30)
    return True


def test_killed_at_random_moments_and_resumed_gives_the_same_bytes(
    tmp_path: Path, tiny_bert: Path, tiny_data: dict[str, str]
) -> None:
    recipe = {"model": str(tiny_bert), "data": tiny_data, "stages": [TEACHER, STUDENT]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    process, at = began(tmp_path, tmp_path / "whole"), time.monotonic()
    assert not killed_after(process, 60)
    duration, expected = time.monotonic() - at, hashes(tmp_path / "whole")
    assert len(expected) == 2

    draw, kills, ends, states = random.Random(0), 0, 0, set()
    while kills < 20 or not ends:
        root = tmp_path / f"killed-{ends}"
        wait = draw.uniform(0, 0.6 * duration) if kills < 20 else 60
        if killed_after(began(tmp_path, root), wait):
            kills += 1
            assert hashes(root).items() <= expected.items()
            states.add(tuple(sorted(str(p.relative_to(root)) for p in root.rglob("*"))))
        else:
            ends += 1
            assert hashes(root) == expected
            assert not list(root.glob(".*"))
    if (root := tmp_path / f"killed-{ends}").exists():  # the one that is not finished yet
        assert not killed_after(began(tmp_path, root), 60)
        assert hashes(root) == expected
    assert len(states) >= 10


# Two processes.


def one_of_two(rank: int, port: int, folder: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    real = runner.publish

    def publish(path: Path, record: dict[str, Any]) -> Any:
        (folder / f"{rank} made {record['name']}").touch()
        return real(path, record)

    runner.publish = publish  # type: ignore[assignment]
    done = run(plan(load((folder / "recipe.yaml").read_text())), folder / "root")
    assert [d.artefact.form for d in done] == ["onnx", "float", "float"]
    torch.distributed.destroy_process_group()


def test_two_processes_make_one_set_of_artefacts(
    tmp_path: Path, tiny_classifier: Path, tiny_data: dict[str, str]
) -> None:
    graph = GRAPH | {"from": str(tiny_classifier)}
    teacher = TEACHER | {"from": str(tiny_classifier)}
    recipe = {"model": str(tiny_classifier), "data": tiny_data, "stages": [graph, teacher, STUDENT]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [start(one_of_two, rank, port, tmp_path) for rank in range(2)]
    for process in both:
        process.join(90)
        process.kill()
    assert [process.exitcode for process in both] == [0, 0]
    assert sorted(p.name for p in tmp_path.glob("* made *")) == ["0 made graph", "0 made student", "0 made teacher"]
    assert len(hashes(tmp_path / "root")) == 3
    assert not list((tmp_path / "root").glob(".*"))


# Other teachers.


def test_a_teacher_in_each_step_and_the_mean_of_two(tiny_bert: Path, tiny_data: dict[str, str], tmp_path: Path) -> None:
    """TinyBERT's scores leave nothing on disk; two teachers are each labelled once, and averaged."""
    other = TEACHER | {"name": "other", "from": "model", "seed": 5}
    scores = {"methods": {"distil.attention": {}, "distil.relations": {"relations": ["attention", "value"]}}}
    both = {"methods": {"tune.freeze": {"thaw": "top_down"}, "distil.logits": {}}, "teacher": ["teacher", "other"]}
    tiny = STUDENT | {"name": "tiny", "from": "model", "data": "train"}
    made = planned(tiny_bert, tiny_data, TEACHER, other, tiny | scores, tiny | both | {"name": "pupil"})
    attended, pupil = run(made, tmp_path)[2:]
    terms = attended.artefact.record["history"]["entries"][-1]["terms"]
    assert sorted(terms) == [
        "distil.attention.block.0.scores",
        "distil.attention.block.1.scores",
        "distil.relations.attention",
        "distil.relations.value",
    ]
    assert all(np.isfinite(value) for value in terms.values())
    about = [json.loads(file.read_text()) for file in tmp_path.glob("labels-*/about.json")]
    assert {entry["teacher"] for entry in about} == {made.stages[0].id, made.stages[1].id}
    assert [entry["taps"] for entry in about] == [["logits"]] * 2
    assert pupil.artefact.record["teacher"] == [made.stages[0].id, made.stages[1].id]
