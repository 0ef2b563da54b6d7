"""Trackers hear of every step, also of a run that was stopped; none is there unless it is asked for."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, call

import pytest
import yaml
from children import start
from commands import command

from smidgen.artefact import file_hash
from smidgen.planner import Plan, plan
from smidgen.recipe import load
from smidgen.runner import run
from smidgen.tracking import QUIET
from smidgen.watch import Silent

TRAIN = {"epochs": 2, "learning_rate": 2e-3, "batch_size": 16, "precision": "float32", "warmup": 0.25}
STAGE = {"name": "teacher", "methods": {"tune.full": {}}, "train": TRAIN}
NAMES = ("tensorboard", "mlflow", "wandb", "trackio")


class Stopped(Exception):
    pass


class StopAfter(Silent):
    """A watch that breaks off training after so many steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def bar(self, name: str, total: float) -> Any:
        bar = MagicMock()
        bar.__enter__.return_value.to = self.to if name == "training" else lambda *args: None
        bar.__exit__.return_value = False
        return bar

    def to(self, done: float, note: str = "") -> None:
        if done == self.step:
            raise Stopped


def planned(model: Path, data: dict[str, str]) -> Plan:
    return plan(load(yaml.safe_dump({"model": str(model), "data": data, "stages": [STAGE]}, sort_keys=False)))


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """By tag, the steps and values in the event files of one run, each step once."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, dict[int, float]] = defaultdict(dict)
    for file in sorted(folder.glob("events*")):
        told = EventAccumulator(str(file)).Reload()
        for tag in told.Tags()["scalars"]:
            for event in told.Scalars(tag):
                assert found[tag].setdefault(event.step, event.value) == event.value
    return {tag: sorted(values.items()) for tag, values in found.items()}


def test_tensorboard_has_every_step_of_a_run_that_was_stopped(
    tiny_bert: Path, tiny_data: dict[str, str], tmp_path: Path
) -> None:
    made = planned(tiny_bert, tiny_data)
    (whole,) = run(made, tmp_path / "whole" / "stages", trackers=("tensorboard",))
    told, entries = events(folder_of(tmp_path / "whole", made)), whole.artefact.record["history"]["entries"]
    steps = list(range(1, entries[-1]["step"] + 1))
    assert sorted(told) == ["dev", "loss", "lr", "tune.full.task"]
    assert all([step for step, _ in told[tag]] == steps for tag in ("loss", "lr", "tune.full.task"))
    assert [step for step, _ in told["dev"]] == [entry["step"] for entry in entries]
    assert [score for _, score in told["dev"]] == pytest.approx([entry["dev"] for entry in entries])
    assert told["loss"] == told["tune.full.task"]
    half = [value for step, value in told["loss"] if step <= entries[0]["step"]]
    assert sum(half) / len(half) == pytest.approx(entries[0]["loss"])
    rates = [rate for _, rate in told["lr"]]
    assert rates[0] == 0 and max(rates) == pytest.approx(2e-3) and 0 < rates[-1] < 2e-3

    root = tmp_path / "stopped"
    with pytest.raises(Stopped):
        run(made, root / "stages", StopAfter(len(steps) - 2), checkpoint_seconds=0, trackers=("tensorboard",))
    (resumed,) = run(made, root / "stages", checkpoint_seconds=0, trackers=("tensorboard",))
    assert len(list(folder_of(root, made).glob("events*"))) == 2 and events(folder_of(root, made)) == told
    plain = run(made, tmp_path / "plain" / "stages")[0]
    hashes = {file_hash(done.artefact.path / "model.safetensors") for done in (whole, resumed, plain)}
    assert len(hashes) == 1 and not (tmp_path / "plain" / "logs").exists()


def folder_of(out: Path, made: Plan) -> Path:
    return out / "logs" / f"teacher-{made.stages[0].id}"


def test_the_others_are_given_the_stage_s_name_and_send_nothing_of_their_own(
    tiny_bert: Path, tiny_data: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in QUIET:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    made = planned(tiny_bert, tiny_data)
    run_name = f"teacher-{made.stages[0].id}"
    modules = {name: MagicMock() for name in NAMES[1:]}
    modules["mlflow"].utils.validation.MAX_PARAM_VAL_LENGTH = 500
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    (done,) = run(made, tmp_path / "stages", trackers=NAMES[1:])
    told = {"project": "smidgen", "name": run_name, "resume": "allow"}
    assert modules["trackio"].init.mock_calls[0] == call(**told)
    assert modules["wandb"].init.mock_calls[0] == call(**told, id=made.stages[0].id, dir=str(tmp_path / "logs"))
    assert modules["mlflow"].start_run.call_args.kwargs["run_name"] == run_name
    last = done.artefact.record["history"]["entries"][-1]
    logged = modules["wandb"].init.return_value.log.mock_calls
    assert logged[-1] == call({"dev": last["dev"]}, step=last["step"]) and len(logged) == last["step"] + 2
    assert modules["mlflow"].log_metrics.call_count == len(logged)
    modules["wandb"].init.return_value.finish.assert_called_once()
    assert {name: os.environ[name] for name in QUIET} == QUIET


@pytest.mark.parametrize("name", NAMES)
def test_a_tracker_that_is_not_installed_is_named_with_what_to_type(
    name: str, tiny_bert: Path, tiny_data: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked: None if asked == name else real(asked))
    recipe = {"model": str(tiny_bert), "data": tiny_data, "stages": [STAGE]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    ran = command(f"run {tmp_path}/recipe.yaml --out {tmp_path}/out --track {name}")
    assert ran.code == 2 and not (tmp_path / "out").exists()
    assert ran.err.strip() == f"Error --track {name}: it is not installed. Type: pip install {name}"


def alone(recipe: Path) -> None:
    """A run in a process that may speak to nobody, and that has no tracker and no cluster in it afterwards."""

    def refuse(*args: Any) -> None:
        raise AssertionError(f"spoke to {args[-1]}")

    socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse  # type: ignore[assignment,method-assign]
    run(plan(load(recipe.read_text())), recipe.parent / "stages")
    assert not {*NAMES, "ray", "torch.utils.tensorboard", "tensorboardX"} & sys.modules.keys()
    assert not (recipe.parent / "logs").exists()


def test_by_default_nothing_is_loaded_and_nobody_spoken_to(
    tiny_bert: Path, tiny_data: dict[str, str], tmp_path: Path
) -> None:
    recipe = {"model": str(tiny_bert), "data": tiny_data, "stages": [STAGE]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    process = start(alone, tmp_path / "recipe.yaml")
    process.join(90)
    assert process.exitcode == 0
