"""What is left out of a search before anything is trained, and what is said of it."""

from __future__ import annotations

import json
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


def begun(folder: Path, **more: Any) -> Search:
    job = Job(str(model_folder(folder / "model", blocks=3)), questions(folder), read(), task="answer", **more)
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


@pytest.mark.parametrize("prepared", [(), ("2 blocks, int8, untrained",)])
def test_what_there_is_no_time_to_build_is_large_and_untrained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepared: tuple[str, ...]
) -> None:
    """On a cluster shapes are built beforehand, and none is begun after the hour; what was built by then is there."""
    search = begun(tmp_path, depths=(1, 2, 3), finishes=("int8",))
    seconds = iter(range(0, 1000, 10))
    search.clock = Clock(started=0.0, limit=140.0, now=lambda: next(seconds))  # a third of it is for building
    done = SimpleNamespace(artefact=SimpleNamespace(path=tmp_path), reused=True)
    monkeypatch.setattr(Search, "make", lambda *_, **__: [done])
    told: dict[str, float] = {}
    monkeypatch.setattr(Search, "prepare", lambda self, recipes, **more: told.update(more) or set(prepared))
    measured = {f"{name}, int8": {"latency": {"p50_ms": 1.0}} for name in ("1 block", "2 blocks", "3 blocks")}
    monkeypatch.setattr(feasibility, "_glance", lambda *_: {})
    monkeypatch.setattr(feasibility, "_measure_shapes", lambda *_: measured)
    feasible(search)
    timed = [candidate.shape.name for candidate in search.candidates]
    assert timed == ["3 blocks, int8", *["2 blocks, int8"] * len(prepared), "1 block, int8"]
    late = "The time limit left no time to build or to time 1 shape: 2 blocks, int8."
    assert (late in search.notes) == (not prepared)
    assert told == {"begin_by": pytest.approx(130 / 3)}, "a third of what is left"


def glanced(
    folder: Path, monkeypatch: pytest.MonkeyPatch, glance: dict[str, float], timed: float, latency: str = "p50=1ms"
) -> Search:
    """A search among 1, 2 and 3 blocks, where each glance says the same, and each timing a p50."""
    search = begun(folder, depths=(1, 2, 3), finishes=("int8",))
    search.job = replace(search.job, budget=read(latency=latency))
    search.root.mkdir(parents=True)

    def make(self: Search, recipe: Any, **more: Any) -> Any:
        path = folder / recipe.name.partition(",")[0]
        return [SimpleNamespace(artefact=SimpleNamespace(path=path), reused=True)]

    def measured(search: Search, folders: Any) -> Any:
        return {name: {"latency": {"p50_ms": timed, "p95_ms": timed}} for name in folders}

    monkeypatch.setattr(Search, "make", make)
    monkeypatch.setattr(feasibility, "load", lambda folder: None)
    monkeypatch.setattr(feasibility, "deployed_bytes", lambda folder: 10)
    monkeypatch.setattr(entries, "glance", lambda model, rows: glance)
    monkeypatch.setattr(feasibility, "_measure_shapes", measured)
    feasible(search)
    return search


@pytest.mark.parametrize(("ms", "built"), [(1.2, ["3 blocks", "2 blocks", "1 block"]), (1.4, ["3 blocks", "1 block"])])
def test_more_of_what_is_far_over_the_budget_is_not_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ms: float, built: list[str]
) -> None:
    search = glanced(tmp_path, monkeypatch, {"p50_ms": ms}, timed=1.4)
    assert [candidate.shape.name for candidate in search.candidates] == [f"{name}, int8" for name in built]
    said = f"1 block, int8: p50 is {ms:.2f} ms, the budget is 1 ms, by far. So not built: 2 blocks."
    assert (said in search.notes) == (len(built) < 3)


def test_a_busy_moment_rules_nothing_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few calls do not tell a p95; half of them over the limit do, and not where the whole timing is within it."""
    disturbed = glanced(tmp_path / "a", monkeypatch, {"p50_ms": 0.5, "p95_ms": 9.0}, timed=0.5, latency="p95=1ms")
    assert len(disturbed.candidates) == 3 and not any("by far" in note for note in disturbed.notes)
    longer = glanced(tmp_path / "b", monkeypatch, {"p50_ms": 9.0, "p95_ms": 9.0}, timed=0.5, latency="p95=1ms")
    assert len(longer.candidates) == 3 and not any("by far" in note for note in longer.notes)
    slow = glanced(tmp_path / "c", monkeypatch, {"p50_ms": 9.0, "p95_ms": 9.5}, timed=9.0, latency="p95=1ms")
    assert "1 block, int8: p50 is 9.00 ms, the budget is 1 ms, by far. So not built: 2 blocks." in slow.notes


@pytest.mark.parametrize(("seconds", "wanted"), [(30, (True, "ab")), (28, (False, "ab")), (7, (False, "b"))])
def test_what_there_is_time_to_time(seconds: int, wanted: tuple[bool, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In full, or else in haste, or else the fastest in haste: 1,524 texts of each, or 440."""
    monkeypatch.setattr(
        feasibility, "_glance", lambda _, folder: {"latency": {"mean_ms": {"a": 13, "b": 6}[str(folder)]}}
    )
    job: Any = SimpleNamespace(budget=read(), calls=300)
    search: Any = SimpleNamespace(job=job, clock=Clock(0.0, 6.0 * seconds, lambda: 0.0))
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
