"""How a winner is chosen, apart from how candidates are made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from smidgen import candidates, outcome, racing
from smidgen import search as searching
from smidgen.budget import read
from smidgen.candidates import Candidate, Pace, Search, in_budget
from smidgen.deferral import Choice, mixed
from smidgen.errors import Busy, OutOfTime
from smidgen.halving import Clock, Trained
from smidgen.pairing import Pair
from smidgen.racing import promising, train_finalists
from smidgen.recipe import Training, Use
from smidgen.search import decide, missed, verdict
from smidgen.shapes import Body, Shape, Step
from smidgen.splits import Split
from smidgen.tasks import Classify
from smidgen.watch import Silent

STEP = (Step("student", ()),)


def candidate(
    finish: str, p50: float, p95: float, body: str = "1 block", family: str = "depth", trained: bool = True
) -> Candidate:
    numbers = {
        "latency": {"p50_ms": p50, "p95_ms": p95},
        "dev_quality": {"value": 0.9, "low": 0.88, "high": 0.92} if trained else None,
        "size_mb": 1.0,
    }
    entry = {"numbers": numbers, "status": "trained" if trained else "not_trained", "reason": ""}
    shape = Shape(Body(body, family, steps=STEP), finish)
    return Candidate(shape, entry, outputs=[np.zeros((1, 2))] if trained else [])


def found(candidates: list[Candidate], **budget: str) -> Any:
    job = SimpleNamespace(budget=read(**(budget or {"latency": "p95=2ms"})), finalists=2, per_family=2, seed=0)
    teacher = {"numbers": {"dev_quality": {"value": 0.9}}}
    task = SimpleNamespace(metric="f1", resampled=lambda said, gold, index: np.zeros(len(index)))
    data = SimpleNamespace(task=task, dev=SimpleNamespace(labels=np.zeros(1)), test=None)
    return SimpleNamespace(
        candidates=candidates, job=job, teacher=teacher, data=data, too_short="", teacher_folder="there", clock=Clock()
    )


def test_baselines_are_of_the_winner_that_the_last_timing_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was fast as an untrained shape and breaks the budget beside its peers makes way, and its baselines too."""
    fast, steady = candidate("int8", 1.0, 1.5), candidate("float32", 1.2, 1.6)
    asked: list[Candidate | None] = []
    monkeypatch.setattr(searching, "baselines", lambda _, winner: asked.append(winner) or {"of": winner})

    def slower(search: Any, models: Any) -> None:
        fast.entry["numbers"]["latency"] = {"p50_ms": 1.0, "p95_ms": 2.5}

    monkeypatch.setattr(searching, "time_trained", slower)
    winner, models = decide(found([fast, steady]))
    assert winner is steady and models == {"of": steady} and asked == [fast, steady]


def test_a_winner_stays_when_another_gets_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = candidate("int8", 1.0, 1.5), candidate("float32", 1.1, 1.6)
    monkeypatch.setattr(searching, "baselines", lambda _, winner: {"of": winner})

    def faster(search: Any, models: Any) -> None:
        second.entry["numbers"]["latency"] = {"p50_ms": 0.5, "p95_ms": 0.6}

    monkeypatch.setattr(searching, "time_trained", faster)
    assert decide(found([first, second])) == (first, {"of": first})


def test_why_another_did_not_win() -> None:
    winner, slower = candidate("int8", 1.0, 1.5), candidate("float32", 2.0, 3.0)
    slower.entry["numbers"]["dev_quality"]["value"] = 0.95
    both = [winner, slower]
    assert outcome._why_not(found(both, latency="p95=9ms"), slower, winner) == (
        "not better than the winner by more than chance on dev, and 2.0 times as slow"
    )
    assert outcome._why_not(found(both, quality="0.9"), slower, winner) == (
        "keeps the quality too, and is 2.0 times as slow"
    ), "it may well be better"
    assert outcome._why_not(found(both), slower, winner) == "does not keep to the budget on dev"


def test_a_cascade_is_judged_by_all_seeds_of_its_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As the models that it competes with, though the best seeds of both are deployed."""
    task, gold = Classify(("no", "yes")), np.arange(40) % 2

    def said(wrong: int, sureness: float) -> np.ndarray:
        answers = gold.copy()
        answers[:wrong] = 1 - answers[:wrong]
        return sureness * np.eye(2)[answers]

    small, large = candidate("int8", 1.0, 1.5, "1 block"), candidate("int8", 2.0, 2.5, "4 blocks")
    small.outputs, large.outputs = [said(w, 9.0) for w in (10, 6, 14)], [said(0, 9.0)]
    small.folder = large.folder = tmp_path
    search = found([small, large])
    dev = Split("dev", tuple(map(str, range(40))), None, gold, "")
    search.data, search.teacher_dev, search.root, search.compared = SimpleNamespace(task=task, dev=dev), 0, tmp_path, 2
    search.place = lambda made: "made"
    pair = Pair("1 block, int8", "4 blocks, int8", Choice(1.0, 0.5, 0.2, 1.0), {"mean_ms": 1.2}, 2.0)
    made = SimpleNamespace(path=tmp_path, record={"levels": [], "lineage": []})
    monkeypatch.setattr(searching, "load", lambda _: SimpleNamespace(outputs=lambda *_: small.outputs[1]))
    monkeypatch.setattr(searching, "cascades", lambda *_: [pair])
    monkeypatch.setattr(searching, "built", lambda *_: made)
    monkeypatch.setattr(searching, "deployed_bytes", lambda _: 1)
    searching.add_cascades(search)
    quality = search.candidates[-1].entry["numbers"]["dev_quality"]
    assert quality["seeds"] == [0.85, 0.75, 0.65], "those that are deployed first"
    assert quality["value"] == pytest.approx(0.75)
    unsure = mixed(task, said(10, 0.1), said(0, 9.0), replace(pair.choice, threshold=0.9))
    assert task.score(unsure, gold) == 1.0, "what it is not sure of is passed on"


def test_nothing_left(monkeypatch: pytest.MonkeyPatch) -> None:
    only = candidate("int8", 1.0, 1.5)
    monkeypatch.setattr(searching, "baselines", lambda _, winner: {"of": winner})
    slow = {"p50_ms": 3.0, "p95_ms": 4.0}
    monkeypatch.setattr(searching, "time_trained", lambda *_: only.entry["numbers"].update(latency=slow))
    assert decide(found([only])) == (None, {"of": None})


def timed_anew(monkeypatch: pytest.MonkeyPatch, first: float, *later: float) -> tuple[Candidate, Any, Any]:
    """The only candidate of a search, which is timed as anew each time; its times, and what times it."""
    only, times = candidate("int8", 1.0, first), iter(later)
    monkeypatch.setattr(searching, "baselines", lambda _, winner: {"of": winner})

    def timed(search: Any, models: Any) -> None:
        only.entry["numbers"]["latency"] = {"p50_ms": 1.0, "p95_ms": next(times)}

    monkeypatch.setattr(searching, "time_trained", timed)
    return only, times, timed


def test_one_that_wavers_is_chosen_where_it_keeps_to_the_budget_after_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no other does: there is a winner then, and what is told of it is true."""
    only, _, timed = timed_anew(monkeypatch, 1.5, 2.02, 2.02, 1.95, 1.95)
    search = found([only])
    first, _ = decide(search)
    assert first is None and only.wavers, "over it when it was timed: nothing is left"
    timed(search, {})
    assert decide(search) == (only, {"of": only})


def test_one_that_keeps_to_the_budget_only_when_it_is_timed_again_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    only, times, _ = timed_anew(monkeypatch, 2.02, 1.98, 1.97, 1.96)
    assert decide(found([only])) == (only, {"of": only}) and next(times) == 1.96, "timed beside its own baselines"


def test_where_there_is_no_time_to_time_again_the_choice_is_by_these_times(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = candidate("int8", 1.0, 1.5), candidate("float32", 1.2, 1.8)
    search = found([first, second])
    search.clock = Clock(0.0, 10.0, lambda: now[0])
    now = [0.0]
    monkeypatch.setattr(searching, "baselines", lambda _, winner: {"of": winner})

    def timed(search: Any, models: Any) -> None:
        now[0] += 6.0
        first.entry["numbers"]["latency"] = {"p50_ms": 1.0, "p95_ms": 2.5}

    monkeypatch.setattr(searching, "time_trained", timed)
    assert decide(search) == (second, {"of": first}) and now[0] == 6.0


def test_what_was_never_judged_is_not_said_to_keep_a_quality() -> None:
    slow = candidate("int8", 3.0, 4.0, trained=False)
    slow.entry["status"] = "infeasible"
    search = found([slow], latency="p95=2ms", quality="0.9")
    assert verdict(search, None)[1].endswith(
        "the budget is 2 ms. Its quality is not known, since nothing was trained; the other limits it would keep: "
        "--max-latency p95=4.2ms"
    )


def test_a_store_that_another_run_holds_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: Any = iter([Busy("held"), Busy("held"), "done"])
    said: list[str] = []

    def run(*args: Any, **more: Any) -> Any:
        answer = next(answers)
        if isinstance(answer, Busy):
            raise answer
        return answer

    monkeypatch.setattr(candidates, "run", run)
    monkeypatch.setattr(candidates, "WAIT", 0.0)
    monkeypatch.setattr(candidates, "plan", lambda *_: SimpleNamespace(stages=()))
    monkeypatch.setattr(Search, "_told", lambda self, recipe, done: done)
    search: Any = object.__new__(Search)
    search.__dict__ |= {"root": "store", "watch": SimpleNamespace(say=said.append), "data": None, "executor": None}
    search.__dict__ |= {"clock": Clock(limit=60.0), "trackers": (), "labelled": 0.0}
    assert search.make(None) == "done"
    assert said == ["store: another run is working there; waiting for it"] * 2
    answers = iter([Busy("held")])
    with pytest.raises(OutOfTime, match="another run held the store for too long"):
        search.make(None, search.clock.now() - 1)


def test_a_teacher_that_has_learnt_nothing_teaches_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entity F1 is 0 as long as a tagger finds nothing: to keep 97 % of that is no feat."""
    fits, too_slow = candidate("int8", 1.0, 1.5, trained=False), candidate("float32", 2.0, 3.0, trained=False)
    too_slow.entry |= {"status": "infeasible", "reason": "p95 is 3 ms"}
    search = found([fits, too_slow])
    search.teacher["numbers"]["dev_quality"] = {"value": 0.0}
    monkeypatch.setattr(racing, "_make_teacher", lambda _: None)
    monkeypatch.setattr(racing, "_race", None)
    train_finalists(search)
    assert fits.entry["reason"] == "fits, but its teacher has learnt nothing yet"
    assert too_slow.entry["reason"] == "p95 is 3 ms"
    word, reason = verdict(search, None)
    assert word == "not_met" and reason.startswith(
        "The teacher's f1 on dev is 0, so there is nothing to keep. Train it"
    )


def test_a_miss_says_what_would_fit() -> None:
    slow, large = candidate("int8", 3.0, 4.0), candidate("float32", 2.0, 2.9)
    large.entry["numbers"]["size_mb"] = 12.34
    search = found([slow, large], latency="p95=2ms", size="10MB")
    word, reason = verdict(search, None)
    assert word == "not_met" and reason == (
        "Nothing fits the budget. The binding constraint is latency; nearest is 1 block, float32: p95 is 2.90 ms, the "
        "budget is 2 ms; size is 12.3 MB, the budget is 10 MB. It would keep to this: --max-latency p95=3.1ms "
        "--max-size 12.4MB"
    )


def test_what_fits_and_had_no_time_is_no_miss() -> None:
    """A budget that could be kept is not said to be too tight."""
    fits, slow = candidate("int8", 1.0, 1.5, trained=False), candidate("float32", 2.0, 3.0, trained=False)
    fits.entry |= {"name": "1 block, int8", "reason": "its training would not end in time"}
    slow.entry["status"] = "infeasible"
    search = found([fits, slow])
    search.clock.limit = 60.0
    assert missed(search, None) is None
    assert verdict(search, None) == (
        "not_met",
        "No candidate was trained, though 1 fitted the budget. 1 block, int8: its training would not end in time. "
        "Give a longer --time-limit.",
    )
    assert verdict(found([]), None) == ("not_met", "No candidate was trained."), "nothing could be built"


def test_a_winner_that_fails_in_the_end_says_what_would_fit() -> None:
    only = candidate("int8", 1.0, 1.5)
    search = found([only], quality="0.95")
    search.data.test = "read"
    only.entry["numbers"]["quality"] = {"value": 0.9123}
    search.teacher["numbers"]["quality"] = {"value": 0.9}
    word, reason = verdict(search, only)
    assert word == "not_met" and reason.endswith(
        "of the least that 0.95 allows. It would keep to this: --min-quality '0.912'"
    )
    miss = missed(search, only)
    assert miss is not None and miss.to_data()["fits"] == "--min-quality '0.912'"


def test_of_each_family_the_largest_that_fit() -> None:
    names = ("4 blocks", "3 blocks", "2 blocks", "1 block")
    all_of_them = [candidate("int8", 1.0, 1.5, name, trained=False) for name in names]
    all_of_them[0].entry["status"] = "infeasible"
    other = candidate("int8", 1.0, 1.5, "CNN", "cnn", trained=False)
    search = found([*all_of_them, other])
    chosen, passed = promising(search.candidates, search.job)
    assert [body.name for body in chosen] == ["3 blocks", "2 blocks", "CNN"]
    assert passed == {"1 block": "fits, but so does more of its kind: 3 blocks and 2 blocks"}


@pytest.mark.parametrize(
    ("seeds", "mean", "finished", "fastest"),
    [
        (1, {}, ["2", "1"], "2"),  # and the next faster does not keep it
        (3, {}, ["2", "1"], "2"),
        (3, {"2": 0.965}, ["2", "1", "4", "3"], "3"),  # it was lucky with the first seed
        (3, {"2": 0.965, "3": 0.96}, ["2", "1", "4", "3"], "4"),
    ],
)
def test_where_only_a_quality_is_asked_the_fastest_that_keeps_it_is_found(
    monkeypatch: pytest.MonkeyPatch, seeds: int, mean: dict[str, float], finished: list[str], fastest: str
) -> None:
    """Where all short trainings stay below it: a third of the steps costs 0.027. Of several seeds the mean counts."""
    full = {"8": 0.995, "6": 0.99, "4": 0.985, "3": 0.98, "2": 0.975, "1": 0.95, "0.5": 0.94, "0.2": 0.93}
    all_of_them = [candidate("int8", float(name), 2.0, name, trained=False) for name in full]
    search = found(all_of_them, quality="97%teacher")
    search.teacher["numbers"]["dev_quality"]["value"] = 1.0
    search.job.seeds, search.notes = seeds, []
    search.trials = SimpleNamespace(close=lambda scores: None)
    search.watch, search.labelled, search.compared, search.pace = Silent(), 0.0, 0, Pace()
    search.data.train, search.data.unlabeled, search.model = [0], None, None
    search.of = lambda body: [c for c in all_of_them if c.shape.body.name == body]
    search.prepare, search.there, search.executor = (lambda recipes, until: set()), (lambda recipe: False), None
    search.ids = lambda recipe: ()
    asked: list[tuple[str, float]] = []

    def learn(search: Any, body: Body, share: float, until: float, turn: int | None) -> Trained:
        asked.extend([(body.name, share)] if not turn else [])
        return Trained(full[body.name] - 0.06 * (1 - share) ** 2, 10 * share)

    def judge(search: Any, one: Candidate, share: float, turn: int) -> None:
        one.outputs.append(np.zeros((1, 2)))
        name = one.shape.body.name
        one.entry["numbers"]["dev_quality"] = {"value": mean.get(name, full[name]) if turn else full[name]}

    for name in ("taught", "plain"):
        monkeypatch.setattr(racing, name, lambda *_: SimpleNamespace(name=""))
    monkeypatch.setattr(racing, "_learn", learn)
    monkeypatch.setattr(racing, "_judge_on_dev", judge)
    monkeypatch.setattr(racing, "reserve", lambda _: 0.0)
    chosen, _ = promising(search.candidates, search.job)
    racing._race(search, {body.name: body for body in chosen})
    assert [name for name, share in asked if share == 1.0] == finished
    assert min((c for c in all_of_them if c in in_budget(search)), key=lambda c: c.ms).shape.body.name == fastest


def test_time_is_kept_for_what_will_be_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher's own graph and the slowest that may win; not what does not fit, however slow."""
    monkeypatch.setattr(racing, "whole_body", lambda search: Body("12 blocks", "depth"))
    monkeypatch.setattr(racing, "time_for", lambda search, graphs: 0.0)
    own, fits = candidate("int8", 13.0, 14.0, "12 blocks", trained=False), candidate("int8", 3.0, 4.0, trained=False)
    own.shape, slow = Shape(Body("12 blocks", "depth"), "int8"), candidate("float32", 500.0, 600.0, "8 blocks")
    own.entry["status"] = slow.entry["status"] = "infeasible"
    search = found([own, fits, slow])
    search.pace, search.job.calls, search.data.test = Pace(build=2.0, timing=4.0, row=0.01), 300, None
    search.model = SimpleNamespace(parameters=5)
    fits.entry["numbers"]["parameters"] = 3
    others = 4 * 3 + 0.01 * (900 + 1024)
    assert racing.reserve(search) == pytest.approx(1.2 * (2 * (5 + 3) + 4 * 13 + others))
    search.candidates.remove(own)  # far over the budget, so not built: about what a row takes in torch
    assert racing.reserve(search) == pytest.approx(1.2 * (2 * (5 + 3) + 4 * 10 + others))


def test_trainings_are_foreseen_by_how_fast_a_body_answers() -> None:
    """Twice what the teacher takes for a row, by the share of its time that whole blocks tell."""
    blocks, other = candidate("int8", 2.0, 3.0, "2 blocks"), candidate("int8", 0.5, 1.0, "CNN")
    blocks.shape = Shape(Body("2 blocks", "depth", work=2.0), "int8")
    search = found([blocks, other])
    search.data.train, search.data.unlabeled = [0] * 60, [0] * 40
    search.model, search.pace, search.job.student = SimpleNamespace(blocks=10), Pace(row=0.01), Training(epochs=5)
    search.of = lambda body: [c for c in search.candidates if c.shape.body.name == body]
    search.clock = Clock(limit=100.0)
    lesson = 5 * 100 * 2 * 0.01
    assert racing.foreseen(search, ["2 blocks", "CNN"]) == pytest.approx(
        {"2 blocks": lesson * 2 / 10, "CNN": lesson * 0.5 / 10}
    )
    search.job.budget = read(quality="97%teacher")
    assert racing.foreseen(search, ["2 blocks", "CNN"]) == {}, "the search goes by speed there already"
    search.job.budget, search.clock = read(latency="p95=2ms"), Clock()
    assert racing.foreseen(search, ["2 blocks", "CNN"]) == {}
    logits, hidden = Use("distil.logits"), Use("distil.hidden")
    of = {
        name: Body(name, "depth", steps=(Step("student", uses),))
        for name, uses in (("a", (logits,)), ("b", (logits, hidden)))
    }
    assert racing.labelling(search, of["a"]) == 0, "others read them too"
    assert racing.labelling(search, of["b"]) == pytest.approx(100 * 0.01)


def test_where_only_a_quality_is_asked_all_are_searched_from_the_fastest_up() -> None:
    slow, fast = (
        candidate("int8", p50, 2.0, name, trained=False) for p50, name in ((2.0, "3 blocks"), (1.0, "1 block"))
    )
    search = found([slow, fast], quality="0.9")
    search.job.per_family = 1
    chosen, passed = promising(search.candidates, search.job)
    assert [body.name for body in chosen] == ["1 block", "3 blocks"] and not passed
