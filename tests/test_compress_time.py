"""The whole of `compress` under a time limit, on a clock that only the work moves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from folders import data_files, model_folder

from smidgen import candidates, feasibility, outcome, racing, running
from smidgen import search as searching
from smidgen.budget import read
from smidgen.errors import Busy, Faulty, InputError
from smidgen.measure import entries
from smidgen.measure.speed import Latency
from smidgen.measure.ways import Trial
from smidgen.planner import Plan, plan
from smidgen.recipe import Files
from smidgen.runner import Done
from smidgen.runtime.engines import Way
from smidgen.runtime.serving import Serving
from smidgen.shapes import Job
from smidgen.watch import Watch

BUILD, STEP, ROW, TEACHER_STEP, WAY = 6.0, 0.2, 0.01, 0.5, 1.5  # seconds
MS = 1.3  # that the whole model takes for a text
WAYS = [Way(), Way(threads=2), Way("openvino")]


class Virtual:
    """Every stage takes its time on a clock of our own; what it leaves answers dev and test with a skill."""

    def __init__(self, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.time, self.out, self.cut, self.ms = 0.0, out, BUILD, MS
        self.parameters = 1
        self.records: dict[str, dict[str, Any]] = {}  # by id
        self.made: list[str] = []
        self.served: dict[str, Any] = {}  # by id
        for module in (candidates,):
            monkeypatch.setattr(module, "run", self.run)
        for module in (feasibility, racing, searching):
            monkeypatch.setattr(module, "load", self.load)
        for module in (racing, searching):
            monkeypatch.setattr(module, "TorchModel", lambda folder, task: self.load(folder, slow=True))
        monkeypatch.setattr(entries, "time_all", self.time_all)
        monkeypatch.setattr(entries, "glance", self.glance)
        for module in (candidates, feasibility):
            monkeypatch.setattr(module, "deployed_bytes", lambda folder: 1_000_000)
            monkeypatch.setattr(module, "parameters", lambda folder: SimpleNamespace(value=self.parameters))
        monkeypatch.setattr(candidates, "memory", lambda *_: SimpleNamespace(value=50.0))
        monkeypatch.setattr(racing, "model_bytes", lambda folder: 1_000_000)
        monkeypatch.setattr(running, "tried", lambda search, folder: WAYS)
        monkeypatch.setattr(running, "fastest_way", self.fastest_way)
        monkeypatch.setattr(running, "Store", lambda root: SimpleNamespace(find=self.served.get))
        monkeypatch.setattr(running, "alone", self.alone)
        monkeypatch.setattr(running, "_with_serving", self.with_serving)
        monkeypatch.setattr(running, "deployed_bytes", lambda folder: 1_000_000)
        monkeypatch.setattr(running, "load", self.load)
        monkeypatch.setattr(candidates.Search, "there", lambda search, recipe: self.there(search, recipe))
        monkeypatch.setattr(outcome, "deliver", lambda *_: None)
        monkeypatch.setattr(outcome, "add_cascades", lambda search: None)  # they are made of folders that are there

        def started(*args: Any) -> Any:
            search = feasibility.start(*args)
            self.parameters = search.model.parameters  # of every graph, since each takes as long to build
            search.clock = replace(search.clock, started=self.time, now=lambda: self.time)
            return search

        monkeypatch.setattr(outcome, "start", started)

    def run(self, plan: Plan, root: Path, executor: None, watch: Watch, **more: Any) -> list[Done]:
        done = []
        for planned in plan.stages:
            reused = planned.id in self.records
            if not reused:
                self.records[planned.id] = self._make(plan, planned, watch)
                self.made.append(planned.id)
            artefact = SimpleNamespace(id=planned.id, path=root / planned.id, record=self.records[planned.id])
            done.append(Done(planned, artefact, reused, 0.0))  # type: ignore[arg-type]
        return done

    def there(self, search: Any, recipe: Any) -> bool:
        return plan(recipe, search.data).stages[-1].id in self.records

    def _make(self, plan: Plan, planned: Any, watch: Watch) -> dict[str, Any]:
        record: dict[str, Any] = {"lineage": [{"id": planned.id, "name": planned.stage.name}]}
        parent = self.records.get(planned.source, {})
        kept = [use.settings["keep"] / 4 for use in planned.stage.methods if "keep" in use.settings]
        own = any(use.method.startswith("student.") for use in planned.stage.methods)
        record["size"] = kept[0] if kept else 0.3 if own else parent.get("size", 1.0)
        if not planned.trains:
            took = self.cut if planned.stage.name == "cut" else BUILD
            self.time += took
            return record | {"skill": parent.get("skill", 0.5), "seconds": took}
        rows = sum(len(getattr(plan.data, part)) for part in planned.parts)
        steps, begun = max(1, math.ceil(rows / 2 * planned.stage.train.epochs)), self.time
        with watch.bar("training", steps) as bar:
            for step in range(steps):
                self.time += TEACHER_STEP if planned.stage.name == "teacher" else STEP
                bar.to(step + 1)
        self.time += 0.5  # to check and to save it
        skill = 0.95 - 0.4 * math.exp(-steps / 50) - 0.01 * (int(planned.id, 16) % 7)
        return record | {"skill": skill, "history": {"best": skill, "seconds": self.time - begun, "entries": []}}

    def load(self, folder: Path, slow: bool = False) -> Any:
        skill = self.records.get(Path(folder).name, {}).get("skill", 0.9)

        def outputs(texts: Sequence[str], pairs: Any = None) -> np.ndarray:
            self.time += len(texts) * (ROW if slow else ROW / 20)
            gold = np.array(["good" in t or "great" in t or "rich" in t or "fun" in t for t in texts]).astype(int)
            wrong = np.arange(len(gold)) % 20 >= round(20 * skill)
            return np.eye(2)[np.where(wrong, 1 - gold, gold)]

        serving = Serving(Way(), Way())
        return SimpleNamespace(
            outputs=outputs, predict=outputs, threads=1, folder=folder, parameters=1, serving=serving
        )

    def alone(self, job: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        self.time += WAY
        return {}

    def fastest_way(self, *given: Any) -> tuple[list[Trial], Serving]:
        *_, run, wanted, effort = given
        for way in effort.turns * wanted:
            run({"way": way})
        return [Trial(way, 1.0, {1024: 1000.0}, 1.0) for way in wanted], Serving(Way(), Way())

    def with_serving(self, target: Path, folder: Path, best: Serving, found: list[Trial]) -> Any:
        self.records[target.name] = self.records[folder.name]
        record = {"ways": [trial.to_data() for trial in found]}
        self.served[target.name] = SimpleNamespace(id=target.name, path=target, record=record)
        return self.served[target.name]

    def time_all(
        self, models: Mapping[str, Any], rows: Sequence[Any], calls: int, turns: int = entries.TURNS
    ) -> tuple[dict[str, Latency], dict[str, dict[str, Any]]]:
        found = {name: self.latency(model, calls) for name, model in models.items()}
        self.time += sum(one.p50_ms for one in found.values()) * entries.answered(calls, turns) / 1e3
        return found, {name: {"texts_per_s": 1000.0, "batch": 32} for name in models}

    def latency(self, model: Any, calls: int) -> Latency:
        size = self.records.get(model.folder.name, {}).get("size", 1.0) if hasattr(model, "folder") else 0.01
        ms = self.ms * size
        return Latency(ms, ms, None, ms, ms, calls, 1, np.full((math.ceil(calls / 20), 20), ms))

    def glance(self, model: Any, rows: Sequence[Any]) -> dict[str, Any]:
        found = self.latency(model, 40)
        self.time += 54 * found.p50_ms / 1e3
        return entries.latency_data(found, 1)


def job(folder: Path, limit: str | None = None, **more: Any) -> Job:
    model = model_folder(folder / "model", blocks=4)
    files = data_files(folder / "data")
    return Job(str(model), Files(**files), read(latency="p95=5ms", time_limit=limit), **({"seeds": 1} | more))


@pytest.fixture
def virtual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Virtual:
    return Virtual(tmp_path / "out", monkeypatch)


@pytest.mark.parametrize("limit", [300, 400, 600, 1500])
def test_the_limit_is_kept_within_a_tenth(limit: int, virtual: Virtual, tmp_path: Path) -> None:
    report = outcome.carry_out(job(tmp_path, f"{limit}s"), virtual.out)
    assert virtual.time <= 1.1 * limit
    assert report["verdict"] == "met" and report["timing"]["seconds"] == pytest.approx(virtual.time, abs=0.1)
    assert report["winner"]["numbers"]["quality"] and report["choice"]["compared"] >= 2
    if limit == 300:  # too little for all of it, and what was left out is said
        assert any("time limit left no" in note for note in report["notes"])


@pytest.mark.parametrize(("limit", "rows"), [(600, 12_000), (600, 60_000), (1200, 60_000)])
def test_a_long_cut_is_foreseen(
    limit: int, rows: int, virtual: Virtual, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cut shows no steps by which it could be stopped; it takes about what `CUT_ROWS` rows do."""
    monkeypatch.setattr(candidates, "CUT_ROWS", rows)
    virtual.cut = 1.2 * ROW * rows
    report = outcome.carry_out(job(tmp_path, f"{limit}s"), virtual.out)
    assert virtual.time <= 1.1 * limit
    assert report["verdict"] == "met"
    assert rows == 12_000 or not any(virtual.records[id]["lineage"][0]["name"] == "cut" for id in virtual.made)


@pytest.mark.parametrize(("ms", "untimed"), [(13.0, 0), (26.0, 2), (150.0, 19)])
def test_timing_shapes_keeps_to_its_share(ms: float, untimed: int, virtual: Virtual, tmp_path: Path) -> None:
    """In full the whole model takes 40 s at 26 ms a text; there are 26 shapes, of a half of it on average."""
    virtual.ms = ms
    report = outcome.carry_out(replace(job(tmp_path), budget=read(latency="p95=1s", time_limit="900s")), virtual.out)
    assert virtual.time <= 990
    assert report["verdict"] == "met" or ms == 150, "where timing a winner takes minutes, none has to be found"
    said = "The time limit left time for 100 calls of each shape, of 300. What is trained is timed in full in the end."
    assert said in report["notes"]
    late = [note for note in report["notes"] if note.startswith("The time limit left no time to build or to time ")]
    assert [int(note.split()[11]) for note in late] == ([untimed] if untimed else [])
    assert len(report["candidates"]) == 26 - untimed


def test_a_limit_in_which_nothing_can_be_timed(virtual: Virtual, tmp_path: Path) -> None:
    with pytest.raises(InputError) as told:
        outcome.carry_out(job(tmp_path, "0.05s", depths=(1, 2)), virtual.out)
    assert str(told.value) == (
        "--time-limit: 0.05 s are too few: not one shape could be built in a third of them and timed in a sixth of the "
        "others. Give more time."
    )
    assert virtual.time < 3 * BUILD + 1, "one shape, untrained, and its two graphs"


def test_time_that_is_left_goes_to_what_was_dropped_for_its_time(virtual: Virtual, tmp_path: Path) -> None:
    """In 500 s no student ends in the part of the short trainings: the teacher's own shape would be all there is."""
    report = outcome.carry_out(job(tmp_path, "500s"), virtual.out)
    trained = {one["name"] for one in report["candidates"] if one["status"] in ("trained", "winner")}
    assert {name for name in trained if not name.startswith("4 blocks, ")}
    assert virtual.time <= 550


def test_without_a_limit_all_is_trained_in_full(virtual: Virtual, tmp_path: Path) -> None:
    report = outcome.carry_out(job(tmp_path), virtual.out)
    assert not any("time limit" in note for note in report["notes"])
    trained = {c["name"].rpartition(",")[0] for c in report["candidates"] if c["status"] in ("trained", "winner")}
    assert len(trained - {"4 blocks"}) == 2  # the finalists; the teacher itself needs no training
    reasons = {c["reason"] for c in report["candidates"] if c["status"] == "not_trained"}
    assert any("went on" in reason for reason in reasons)
    assert {one["axis"] for one in report["alternatives"]} == {"fastest", "smallest", "best"}


def test_a_limit_that_leaves_no_teacher_says_so(virtual: Virtual, tmp_path: Path) -> None:
    report = outcome.carry_out(job(tmp_path, "40s", depths=(1,)), virtual.out)
    assert report["verdict"] == "not_met" and report["reason"].startswith(
        "The time limit of 40 s is too short: half of"
    )
    assert virtual.time <= 44


@pytest.mark.parametrize("held", [20.0, math.inf])
def test_a_store_that_is_held_at_the_end_costs_a_baseline_at_most(
    held: float, virtual: Virtual, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is waited for until the whole limit, though the last training has to end sooner."""
    begun: list[float] = []

    def run(*args: Any, **more: Any) -> list[Done]:
        if begun and virtual.time < begun[0] + held:
            virtual.time += 5.0
            raise Busy("held")
        return virtual.run(*args, **more)

    def baselines(search: Any, winner: Any) -> Any:
        virtual.time = max(virtual.time, search.clock.until + 1)
        begun[:] = begun or [virtual.time]
        return made(search, winner)

    made = searching.baselines
    monkeypatch.setattr(candidates, "run", run)
    monkeypatch.setattr(candidates, "WAIT", 0.0)
    monkeypatch.setattr(searching, "baselines", baselines)
    report = outcome.carry_out(job(tmp_path, "600s", depths=(1, 2)), virtual.out)
    assert report["verdict"] == "met" and virtual.time <= 660
    said = "The time limit left no time for the baseline teacher, int8: another run held the store for too long."
    assert report["notes"].count(said) == (held > 20)
    assert any(one["name"] == "teacher, int8" for one in report["baselines"]) == (held == 20)


@pytest.mark.parametrize("turn", [0, 1])
def test_a_store_that_is_held_where_a_finalist_is_judged(
    turn: int, virtual: Virtual, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search goes on with what was judged."""
    judge = racing._judge_on_dev
    stopped: list[str] = []

    def held(search: Any, candidate: Any, share: float, number: int) -> None:
        if number == turn and not stopped:
            stopped.append(candidate.shape.body.name)
            monkeypatch.setattr(candidates, "run", busy)
        try:
            judge(search, candidate, share, number)
        finally:
            monkeypatch.setattr(candidates, "run", virtual.run)

    def busy(*args: Any, **more: Any) -> list[Done]:
        virtual.time += 200.0
        raise Busy("held")

    monkeypatch.setattr(racing, "_judge_on_dev", held)
    monkeypatch.setattr(candidates, "WAIT", 0.0)
    report = outcome.carry_out(job(tmp_path, "900s", seeds=1 + turn, depths=(1, 2)), virtual.out)
    (name,) = stopped
    reasons = {c["reason"] for c in report["candidates"] if c["name"].startswith(f"{name}, ")}
    if turn:
        said = [note for note in report["notes"] if note.startswith(f"Seed 1 of {name}, ")]
        assert said and all("was not judged: another run held the store" in note for note in said)
    else:
        assert "another run held the store for too long" in reasons


def test_another_budget_trains_nothing_twice(virtual: Virtual, tmp_path: Path) -> None:
    """And with the same shapes, nothing at all: only the choice is made anew."""
    asked = job(tmp_path)
    outcome.carry_out(asked, virtual.out)
    made, took = len(virtual.made), virtual.time
    outcome.carry_out(replace(asked, budget=read(latency="p95=4ms")), virtual.out)
    assert len(virtual.made) == made and virtual.time - took < 0.2 * took
    outcome.carry_out(replace(asked, finalists=4), virtual.out)
    assert len(set(virtual.made)) == len(virtual.made) > made


def test_another_budget_with_a_limit_uses_what_was_trained(virtual: Virtual, tmp_path: Path) -> None:
    """Each finalist's training took longer than there is time for now."""
    asked = job(tmp_path, depths=(2, 3), seeds=3)
    first = outcome.carry_out(asked, virtual.out)
    made, began = len(virtual.made), virtual.time
    took = [record["history"]["seconds"] for record in virtual.records.values() if "history" in record]
    again = outcome.carry_out(replace(asked, budget=read(latency="p95=4ms", time_limit="250s")), virtual.out)
    assert sum(took) > 250 and virtual.time - began < 275
    assert len(virtual.made) == made, again["notes"]
    assert [note for note in again["notes"] if "limit left no" in note] == []
    trained = [
        {c["name"]: c["numbers"]["dev_quality"]["seeds"] for c in report["candidates"] if c["status"] != "not_trained"}
        for report in (first, again)
    ]
    assert trained[0] == trained[1] and all(len(seeds) == 3 for seeds in trained[0].values())


@pytest.mark.parametrize("until", [30.0, math.inf])
def test_a_store_that_is_held_while_shapes_are_built(
    until: float, virtual: Virtual, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is waited for as long as there is time to build, and the error names it."""

    def run(*args: Any, **more: Any) -> list[Done]:
        if virtual.time < until:
            virtual.time += 5.0
            raise Busy("held")
        return virtual.run(*args, **more)

    monkeypatch.setattr(candidates, "run", run)
    monkeypatch.setattr(candidates, "WAIT", 0.0)
    asked = job(tmp_path, "600s", depths=(1, 2))
    if until == 30:
        assert outcome.carry_out(asked, virtual.out)["verdict"] == "met" and virtual.time <= 660
        return
    with pytest.raises(InputError) as told:
        outcome.carry_out(asked, virtual.out)
    assert str(told.value) == (
        "--time-limit: 600 s are too few: another run held the store for too long. Give more time."
    )
    assert virtual.time <= 210, "a third of it"


def test_a_candidate_whose_graph_is_wrong_costs_itself_alone(
    virtual: Virtual, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = racing._judge_on_dev

    def judged(search: Any, candidate: Any, share: float, turn: int) -> None:
        if candidate.shape.name == "2 blocks, int8":
            raise Faulty("its graph says other things.")
        judge(search, candidate, share, turn)

    monkeypatch.setattr(racing, "_judge_on_dev", judged)
    made = searching.baselines

    def faulty(*args: Any, **more: Any) -> list[Done]:
        raise Faulty("its graph says other things.")

    def baselines(search: Any, winner: Any) -> Any:
        monkeypatch.setattr(candidates, "run", faulty)
        return made(search, winner)

    monkeypatch.setattr(searching, "baselines", baselines)
    report = outcome.carry_out(job(tmp_path, depths=(1, 2), seeds=2), virtual.out)
    told = "Without the baseline teacher, int8, which cannot be made: its graph says other things."
    assert report["notes"].count(told) == 1
    said = {c["name"]: (c["status"], c["reason"]) for c in report["candidates"]}
    assert said["2 blocks, int8"] == ("not_trained", "cannot be made: its graph says other things.")
    assert said["2 blocks, float32"][0] in ("trained", "winner") and report["verdict"] == "met"


def test_where_only_a_quality_is_asked_a_body_with_one_faulty_finish_still_counts(
    virtual: Virtual, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = racing._judge_on_dev

    def judged(search: Any, candidate: Any, share: float, turn: int) -> None:
        if candidate.shape.finish == "int8":
            raise Faulty("its graph says other things.")
        judge(search, candidate, share, turn)

    monkeypatch.setattr(racing, "_judge_on_dev", judged)
    asked = replace(job(tmp_path, depths=(1, 2, 3)), budget=read(quality="50%teacher"))
    report = outcome.carry_out(asked, virtual.out)
    assert report["verdict"] == "met" and report["winner"]["name"] == "1 block, float32"


def test_seeds_of_the_finalists(virtual: Virtual, tmp_path: Path) -> None:
    report = outcome.carry_out(job(tmp_path, depths=(1, 2), seeds=3), virtual.out)
    for found in report["candidates"]:
        quality = found["numbers"]["dev_quality"]
        assert len(quality["seeds"]) == 3 and quality["value"] == pytest.approx(np.mean(quality["seeds"]))
    names = [virtual.records[id]["lineage"][0]["name"] for id in virtual.made]
    assert names.count("teacher") == 1 and names.count("student") == 6
