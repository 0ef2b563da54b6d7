"""What is left out of a search before anything is trained, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from folders import model_folder

from smidgen import feasibility
from smidgen.budget import read
from smidgen.candidates import Search
from smidgen.errors import InputError, RecipeError
from smidgen.feasibility import feasible, start
from smidgen.halving import Clock
from smidgen.measure import entries
from smidgen.recipe import Files
from smidgen.shapes import SCARCE, Body, Job, Shape
from smidgen.watch import Silent


def questions(folder: Path) -> Files:
    """Rows of a question, a context and where the answer is."""
    files = {}
    for name, count in (("train", 20), ("dev", 8)):
        rows = [
            {
                "question": f"{name} {i}?",
                "context": "the film was good",
                "answers": {"text": ["good"], "answer_start": [13]},
            }
            for i in range(count)
        ]
        files[name] = str(folder / f"{name}.jsonl")
        Path(files[name]).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return Files(**files)


def begun(folder: Path, blocks: int = 3, **more: Any) -> Search:
    job = Job(str(model_folder(folder / "model", blocks=blocks)), questions(folder), read(), task="answer", **more)
    return start(job, folder / "out", Silent())


def test_what_a_family_cannot_do_is_left_out_and_said(tmp_path: Path) -> None:
    """Students with their own tokens cannot point into a context: the plan says so, no list does."""
    search = begun(tmp_path)
    families = {candidate.shape.body.family for candidate in search.candidates}
    assert families == {"depth", "answers", "theseus", "pruned", "narrow"}
    for name in ("BiLSTM", "CNN", "static vectors"):
        (said,) = [note for note in search.notes if note.startswith(f"Left out: {name}. ")]
        assert "cut texts differently" in said


def test_what_was_asked_for_by_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cut texts differently"):
        begun(tmp_path, families=("cnn",))
    assert not (tmp_path / "out").exists()


def test_texts_are_counted_once(tmp_path: Path) -> None:
    """How long a text may be is looked up in the first plan only; nothing else about it changes."""
    search = begun(tmp_path)
    assert search.job.files.max_length is not None and search.job.files.train == questions(tmp_path).train


def test_a_shape_that_cannot_be_built_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = begun(tmp_path, depths=(1, 2))

    def make(self: Search, recipe: Any, **more: Any) -> Any:
        raise InputError("it is too small.")

    monkeypatch.setattr(Search, "make", make)
    feasible(search)
    assert search.candidates == []
    assert search.notes[-1] == "Left out: 2 blocks and 1 block. it is too small."


@pytest.mark.parametrize("there", [(), ("2 blocks, int8, untrained",)])
def test_what_there_is_no_time_to_build_is_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...]
) -> None:
    """The smallest is built first, then the largest. On a cluster none is begun after the hour; what was built by then
    is there."""
    search = begun(tmp_path, depths=(1, 2, 3), finishes=("int8",))
    time = [0.0]
    search.clock = Clock(started=0.0, limit=140.0, now=lambda: time[0])  # a third of it is for building

    def make(_: Any, recipe: Any, **__: Any) -> Any:
        time[0] += 25
        artefact = SimpleNamespace(path=tmp_path, id=recipe.name, record={"seconds": 20.0})
        return [SimpleNamespace(artefact=artefact, reused=True)]

    monkeypatch.setattr(Search, "make", make)
    monkeypatch.setattr(Search, "there", lambda _, recipe: recipe.name in there)
    told: list[float] = []
    monkeypatch.setattr(Search, "prepare", lambda self, recipes, begin_by: told.append(begin_by))
    measured = {f"{name}, int8": {"latency": {"p50_ms": 1.0}} for name in ("1 block", "2 blocks", "3 blocks")}
    monkeypatch.setattr(feasibility, "_glance", lambda *_: {})
    monkeypatch.setattr(feasibility, "parameters", lambda folder: SimpleNamespace(value=5))
    monkeypatch.setattr(feasibility, "_measure_shapes", lambda *_: measured)
    feasible(search)
    timed = [candidate.shape.name for candidate in search.candidates]
    assert timed == ["3 blocks, int8", *["2 blocks, int8"] * len(there), "1 block, int8"]
    late = "The time limit left no time to build or to time 1 shape: 2 blocks, int8."
    assert (late in search.notes) == (not there)
    assert told == [pytest.approx(140 / 3)] * 3
    assert search.pace.build == 4, "seconds for each parameter, as they were when it was built"


def glanced(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    glances: Mapping[str, float],
    timed: float | None = None,
    latency: str = "p50=1ms",
    p95: float | None = None,
    **more: Any,
) -> tuple[Search, list[str]]:
    """A search among shapes of which a glance says these milliseconds, and a timing the same or `timed`; and the names
    of those that were built, in their order."""
    search = begun(folder, finishes=("int8",), **more)
    search.job = replace(search.job, budget=read(latency=latency))
    search.root.mkdir(parents=True)
    built: list[str] = []

    def make(self: Search, recipe: Any, **more: Any) -> Any:
        name = recipe.name.partition(",")[0]
        built.append(name)
        artefact = SimpleNamespace(path=folder / name, id=name, record={"seconds": 1.0})
        return [SimpleNamespace(artefact=artefact, reused=True)]

    def measured(search: Search, folders: Any) -> Any:
        ms = {name: glances[name.partition(",")[0]] if timed is None else timed for name in folders}
        return {name: {"latency": {"p50_ms": one, "p95_ms": one}} for name, one in ms.items()}

    monkeypatch.setattr(Search, "make", make)
    monkeypatch.setattr(feasibility, "load", lambda folder: folder.name)
    monkeypatch.setattr(feasibility, "parameters", lambda folder: SimpleNamespace(value=5))
    monkeypatch.setattr(feasibility, "deployed_bytes", lambda folder: 10)
    monkeypatch.setattr(
        entries, "glance", lambda model, rows: {"p50_ms": glances[model], "p95_ms": p95 or glances[model]}
    )
    monkeypatch.setattr(feasibility, "_measure_shapes", measured)
    return search, built


def blocks(first: float, each: float, *counts: int) -> dict[str, float]:
    """Milliseconds by the name of a body."""
    return {("1 block" if n == 1 else f"{n} blocks"): first + each * n for n in counts}


@pytest.mark.parametrize(("first", "built"), [(0.0, ["1 block", "2 blocks", "3 blocks"]), (1.2, ["1 block"])])
def test_more_of_what_is_far_over_the_budget_is_not_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: float, built: list[str]
) -> None:
    search, made = glanced(tmp_path, monkeypatch, blocks(first, 0.4, 1, 2, 3), depths=(1, 2, 3))
    feasible(search)
    assert made == built
    said = "1 block, int8: p50 is 1.60 ms, the budget is 1 ms. So not built: 3 blocks, 2 blocks."
    assert (said in search.notes) == (len(built) < 3)


def test_a_line_through_two_depths_tells_of_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search, made = glanced(tmp_path, monkeypatch, blocks(0.1, 0.4, 1, 2, 3), depths=(1, 2, 3), latency="p50=0.95ms")
    feasible(search)
    assert made == ["1 block", "2 blocks"], "1.3 ms are too far over"
    said = "By what 1 block, 2 blocks take in int8, too much for the budget, so not built: 3 blocks."
    assert search.notes[-1] == said


def test_under_a_time_limit_no_more_is_built_than_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of a family, the largest that fit."""
    search, made = glanced(
        tmp_path, monkeypatch, blocks(0.0, 0.2, 1, 2, 3, 4), depths=(1, 2, 3, 4), blocks=5, families=("depth",)
    )
    search.clock = Clock(0.0, 1000.0, lambda: 0.0)
    feasible(search)
    assert made == ["1 block", "4 blocks", "3 blocks"]
    assert "Enough that is larger fits the budget in int8, so not built: 2 blocks." in search.notes


def test_a_busy_moment_rules_nothing_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few calls do not tell a p95; half of them over the limit do, and not where the whole timing is within it."""
    quick, slow = blocks(0.5, 0.0, 1, 2, 3), blocks(9.0, 0.0, 1, 2, 3)
    given: dict[str, Any] = {"latency": "p95=1ms", "depths": (1, 2, 3)}
    disturbed, _ = glanced(tmp_path / "a", monkeypatch, quick, p95=9.0, **given)
    feasible(disturbed)
    assert len(disturbed.candidates) == 3 and not any("not built" in note for note in disturbed.notes)
    longer, _ = glanced(tmp_path / "b", monkeypatch, slow, timed=0.5, **given)
    feasible(longer)
    assert len(longer.candidates) == 3 and not any("not built" in note for note in longer.notes)
    too_slow, _ = glanced(tmp_path / "c", monkeypatch, slow, **given)
    feasible(too_slow)
    assert too_slow.notes[-1] == "1 block, int8: p95 is 9.00 ms, the budget is 1 ms. So not built: 3 blocks, 2 blocks."


@pytest.mark.parametrize(("limit", "wanted"), [(600, (True, "ab")), (560, (False, "ab")), (42, (False, "b"))])
def test_what_there_is_time_to_time(limit: float, wanted: tuple[bool, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In full, or else in haste, or else the fastest in haste: 1,524 texts of each, or 440."""
    monkeypatch.setattr(
        feasibility, "_glance", lambda _, folder: {"latency": {"mean_ms": {"a": 13, "b": 6}[str(folder)]}}
    )
    job: Any = SimpleNamespace(budget=read(), calls=300)
    search: Any = SimpleNamespace(job=job, clock=Clock(0.0, limit, lambda: 0.0))
    in_full, names = feasibility._within(search, {name: Path(name) for name in "ab"})
    assert (in_full, "".join(sorted(names))) == wanted
    search.clock = Clock()
    assert feasibility._within(search, {name: Path(name) for name in "ab"}) == (True, ["a", "b"])


def test_each_reason_is_told_once_by_what_its_shapes_share() -> None:
    one, two = Body("CNN", "cnn"), Body("static vectors", "static")
    both = [(Shape(one), "no."), (Shape(one, "float32"), "no.")]
    assert feasibility._left_out(both) == ["Left out: CNN. no."]
    assert feasibility._left_out([(Shape(one, SCARCE), "why."), (Shape(two, SCARCE), "why.")]) == [
        f"Left out: {SCARCE}. why."
    ]
    assert feasibility._left_out([(Shape(one), "a."), (Shape(two), "b.")]) == [
        "Left out: CNN, int8. a.",
        "Left out: static vectors, int8. b.",
    ]
