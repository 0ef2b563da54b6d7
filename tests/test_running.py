"""How what was trained is run: the fastest engine and threads in a folder of its own, within the time that there is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from folders import LABELS, sentences
from test_engines import deployed, needs_openvino

from smidgen import running
from smidgen.artefact import Artefact, identity, open_artefact, publish
from smidgen.budget import read
from smidgen.candidates import Candidate, Search
from smidgen.choosing import mean_quality
from smidgen.errors import ModelError
from smidgen.halving import Clock
from smidgen.measure import entries
from smidgen.measure.number import Number
from smidgen.runtime import deployed_bytes, engines, load
from smidgen.runtime.engines import Way
from smidgen.runtime.serving import kept
from smidgen.shapes import Body, Job, Shape
from smidgen.splits import Split
from smidgen.tasks import Classify
from smidgen.watch import Silent

TASK = Classify(LABELS)
TEXTS = tuple(text for text, _ in sentences(40, seed=3))


@pytest.fixture
def made(tmp_path: Path) -> Artefact:
    """An artefact as a stage leaves it."""
    source, target = deployed(tmp_path / "source"), tmp_path / "stages" / "trained"
    with publish(target, {"id": "trained", "form": "onnx", "lineage": []}) as draft:
        for file in (one for one in source.rglob("*") if one.is_file()):
            (draft / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (draft / file.relative_to(source)).write_bytes(file.read_bytes())
    return open_artefact(target)


def search_of(made: Artefact, job: Job, seeds: int = 1) -> Search:
    entry = entries.entry("one", "trained", path="stages/trained")
    said = load(made.path).outputs(TEXTS)
    dev = Split("dev", TEXTS, None, said.argmax(1), "dev.csv")  # all of it is right
    entry["numbers"] |= {
        "latency": {"p50_ms": 1.0, "p95_ms": 1.0, "mean_ms": 1.0},
        "size_mb": deployed_bytes(made.path) / 1e6,
        "dev_quality": mean_quality(TASK, [said], dev),
    }
    candidate = Candidate(Shape(Body("one", "depth")), entry, made.path, [-said, said][-seeds:])
    data: Any = SimpleNamespace(dev=dev, task=TASK)
    root = made.path.parent
    clock = Clock(limit=job.budget.time_limit_s, now=lambda: 0.0, started=0.0)
    return Search(job, root.parent, root, Silent(), None, data, [candidate], clock=clock)  # type: ignore[arg-type]


def job_of(engine: str | None = None, **limits: str) -> Job:
    return Job("m", None, read(**limits), engine=engine)  # type: ignore[arg-type]


def timed(monkeypatch: pytest.MonkeyPatch, ms: Mapping[Way, float]) -> list[Way]:
    """Processes that take these times; gives the ways that were asked for."""
    asked: list[Way] = []

    def alone(job: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        asked.append(way := Way(**job["way"]))
        if not ms[way]:
            raise ModelError("its process crashed (signal 11)")
        return {"ms": [ms[way]] * 3, "texts_per_s": {"1024": 1 / ms[way]}, "decided": ["a"] * len(job["rows"])}

    monkeypatch.setattr(running, "alone", alone)
    monkeypatch.setattr(running, "tried", lambda search, folder: list(ms))
    return asked


@needs_openvino
def test_the_fastest_way_is_in_a_folder_of_its_own(made: Artefact, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = timed(monkeypatch, {Way(): 2.0, Way("openvino"): 1.0, Way("openvino", "bfloat16"): 0.0})
    search, before = search_of(made, job_of(), seeds=2), made.record["files"]
    assert running.run_fastest(search)
    (found,) = search.candidates
    assert found.folder is not None and found.folder != made.path and not (made.path / "serve.json").exists()
    how = kept(found.folder)
    assert how is not None and how.latency == Way("openvino") == load(found.folder).serving.throughput
    assert [way["reason"] for way in found.entry["ways"]] == ["", "", "its process crashed (signal 11)"]
    assert found.entry["path"] == f"stages/{found.folder.name}"
    assert found.entry["numbers"]["size_mb"] == deployed_bytes(found.folder) / 1e6
    assert open_artefact(found.folder, deep=True).record["files"] == before, "serve.json may be written anew"
    best = load(made.path, engine="openvino").outputs(TEXTS)
    assert np.array_equal(found.outputs[1], best) and len(found.outputs) == 2
    assert found.entry["numbers"]["dev_quality"]["seeds"] == [0.0, 1.0]

    asked.clear()
    again = search_of(made, job_of())
    running.run_fastest(again)
    assert not asked and again.candidates[0].folder == found.folder and again.candidates[0].entry["ways"]
    running.run_fastest(search_of(made, job_of(engine="onnxruntime")))
    assert asked, "another engine is asked for"


def test_far_from_the_fastest_a_way_has_one_turn(made: Artefact, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = timed(monkeypatch, {Way(): 1.0, Way(threads=2): 1.05, Way(threads=4): 2.0})
    search = search_of(made, job_of())
    running.run_fastest(search)
    assert asked == [Way(), Way(threads=2), Way(threads=4), Way(), Way(threads=2)]
    assert [way["ms"] for way in search.candidates[0].entry["ways"]] == [1.0, 1.05, 2.0]


@needs_openvino
def test_what_needs_more_memory_than_there_is_is_refused(made: Artefact, monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, {Way(): 2.0, Way("openvino"): 1.0})
    monkeypatch.setattr(running, "memory", lambda *_, **more: Number("memory_mb", 250.0, "MB", 1))
    monkeypatch.setattr(running, "memory_of", lambda folder, search: 90.0)
    search = search_of(made, job_of(memory="200MB"))
    running.run_fastest(search)
    (found,) = search.candidates
    assert found.folder is not None and load(found.folder).serving.latency == Way()
    assert found.entry["ways"][1]["reason"] == "it needs 250 MB of memory"
    assert found.entry["numbers"]["memory_mb"] == 90.0


def test_fewer_texts_are_timed_where_one_takes_long(made: Artefact, monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, {Way(): 1.0, Way(threads=2): 1.0})
    rows, alone = [], running.alone
    monkeypatch.setattr(running, "alone", lambda job, left: (rows.append(len(job["rows"])), alone(job, left))[1])
    search = search_of(made, job_of())
    search.candidates[0].entry["numbers"]["latency"]["mean_ms"] = 1000.0
    assert running.time_for(search, 1) < 2 * 2 * running.TIMEOUT / 2
    running.run_fastest(search)
    assert rows == [13] * 4, "of 64"


def test_without_a_choice_it_is_run_by_rule(made: Artefact, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where there is one engine and too little work for more than a thread: no process is begun."""
    monkeypatch.setattr(running, "alone", None)
    search = search_of(made, job_of(engine="onnxruntime"))
    assert not running.run_fastest(search)
    (found,) = search.candidates
    assert found.folder is not None and kept(found.folder) == load(made.path).serving and not found.entry["ways"]


def test_threads_stay_within_the_processors_and_the_work(made: Artefact, monkeypatch: pytest.MonkeyPatch) -> None:
    search = search_of(made, job_of(engine="onnxruntime"))
    for cores, work, threads in ((1, 10, [1]), (8, 0.4, []), (8, 2.0, [1, 2, 4]), (8, 40, [1, 2, 4, 8])):
        monkeypatch.setattr(running, "usable_cores", lambda cores=cores: cores)
        monkeypatch.setattr(running, "multiplications", lambda graph, work=work: int(work * running.WORTH))
        found = running.tried(search, made.path)
        assert [way.threads for way in found] == (threads if len(threads) > 1 else [])
        assert all(way.threads * way.calls <= cores for way in found)


def test_what_there_is_no_time_for_is_said(made: Artefact, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = timed(monkeypatch, {Way(): 1.0, Way(threads=2): 1.0})
    search = search_of(made, job_of(time_limit="100s"))
    each = 2 * 2 * (running.START + running.BRIEF.calls / 1e3)
    assert running.time_for(search, 1) == pytest.approx(each)
    search.clock.limit = 10.0
    assert running.time_for(search, 1) == pytest.approx(1.0)
    times = iter([0.0, 0.5, 0.9, 1.1])
    search.clock.now = lambda: next(times)
    assert not running.run_fastest(search)
    assert len(asked) == 2 and search.notes == ["The time limit left no time to try engines and threads for one, int8."]
    assert search.candidates[0].folder == made.path


def test_what_no_engine_runs_is_run_by_rule(made: Artefact, monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, {Way(): 0.0, Way(threads=2): 0.0})
    search = search_of(made, job_of())
    assert not running.run_fastest(search)
    assert search.notes == [
        f"one, int8 is run by rule: {made.path}: onnxruntime did not run it (its process crashed (signal 11))."
    ]


def test_the_name_says_what_times_depend_on(made: Artefact, monkeypatch: pytest.MonkeyPatch) -> None:
    search = search_of(made, job_of())
    names = [running._id(search, made.path)]
    monkeypatch.setattr(running, "machine", lambda: {"cpu": "another", "features": [], "cores": 1})
    names.append(running._id(search, made.path))
    monkeypatch.setattr(running, "versions", lambda: {"onnxruntime": "9"})
    names.append(running._id(search, made.path))
    assert len(set(names)) == 3 and all(len(name) == len(identity([])) for name in names)
    assert engines.names() == ("onnxruntime", "openvino")
