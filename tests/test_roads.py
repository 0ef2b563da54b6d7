"""The rules of advice, over plain facts: which roads are taken, what that sets, and the numbers that are told."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smidgen.budget import Budget, Quality
from smidgen.facts import Encoder, Facts, Machine, Measured, Texts, Timed
from smidgen.fitting import broken, deep, pick
from smidgen.roads import (
    BEHIND,
    KEPT,
    LOCAL_AT,
    LOCAL_KEPT,
    LOCAL_MB,
    LOCAL_TIMES,
    SAME,
    WINDOW,
    Course,
    Road,
    course,
    expected,
    few_labels,
    little_memory,
    little_time,
    long_documents,
    many_tasks,
    roads,
    takes,
    tight_latency,
    tight_size,
)

MODEL = Encoder("mini", "bert", 6, 384, 22_700_000, 11_700_000, 512, trained=False)
TEXTS = Texts(
    "classify", "accuracy", 2, 6920, 872, 1821, rarest=("bad", 3310), p50=22, p95=43, longest=67, max_length=56
)
MEASURED = Measured(
    whole=Timed("the whole model", "whole", 6, 1.6, 2.6, 24.0),
    cut=Timed("3 blocks", "cut", 3, 1.0, 1.4, 18.0),
    small=(Timed("a CNN", "cnn", 0, 0.1, 0.2, 3.0), Timed("a static student", "static", 0, 0.05, 0.1, 5.0)),
    tokenizer_ms=0.04,
    bare_mb=60.0,
    run_mb=120.0,
    texts_per_s=100.0,
    train_mb=1000.0,
    tokens=30_000,
    used=12_000,
    spared_mb=8.0,
)
FACTS = Facts(MODEL, TEXTS, Machine("cpu", 2, (), 16_000, 8000), MEASURED, Budget())


def facts(**changes: Any) -> Facts:
    """FACTS with other values, by the name of a field of any of its parts."""
    parts = {}
    for name in ("model", "texts", "machine", "measured", "budget"):
        part = getattr(FACTS, name)
        own = {key: changes.pop(key) for key in list(changes) if hasattr(part, key)}
        parts[name] = replace(part, **own)
    return replace(FACTS, **parts, **changes)


def said(road: Road) -> str:
    return road.why.replace("\u00a0", " ")


def test_nothing_is_taken_where_nothing_presses() -> None:
    found = roads(FACTS)
    assert [road.name for road in found] == [
        *("many tasks", "few labels", "long documents", "little memory", "tight size", "tight latency", "little time")
    ]
    assert not any(road.taken for road in found) and course(FACTS, found) == Course()
    assert all(re.search(r"\d", road.why) or road.name == "many tasks" for road in found), "numbers decide"
    assert expected(FACTS, Course()) == ""


# Shapes and what fits.


def test_depths_between_are_on_the_line_through_those_that_were_measured() -> None:
    four = deep(FACTS, 4)
    assert (four.name, four.kind) == ("4 blocks", "cut")
    assert four.p95_ms == pytest.approx(1.8) and four.size_mb == pytest.approx(20.0) and four.p99_ms is None
    assert deep(FACTS, 1).p50_ms == pytest.approx(0.6)
    assert deep(FACTS, 3) is MEASURED.cut and deep(FACTS, 6) is MEASURED.whole


@pytest.mark.parametrize(
    ("limit", "kind", "blocks"),
    [(2.6, "whole", 6), (2.5, "cut", 5), (1.4, "cut", 3), (0.7, "cut", 1), (0.5, "cnn", 0), (0.15, "static", 0)],
)
def test_the_largest_that_keeps_to_the_latency_is_picked(limit: float, kind: str, blocks: int) -> None:
    found = pick(facts(latency_ms=limit))
    assert (found.shape.kind, found.shape.blocks, found.broken) == (kind, blocks, ())


def test_where_nothing_fits_the_smallest_is_named_with_what_it_breaks() -> None:
    found = pick(facts(latency_ms=0.01, size_mb=1.0))
    assert found.shape.kind == "static" and found.broken == ("latency", "size")
    assert "Nothing keeps to the budget: the smallest is a static student" in said(
        tight_latency(facts(latency_ms=0.01))
    )


def test_tokens_go_before_blocks_and_only_where_a_size_is_asked() -> None:
    assert pick(facts(size_mb=20.0)).vocabulary and pick(facts(size_mb=20.0)).shape.kind == "whole"
    assert pick(facts(size_mb=11.0)).shape.blocks == 3, "18 MB less 8"
    assert not pick(facts(latency_ms=1.5)).vocabulary
    assert not pick(facts(size_mb=23.9, spared_mb=0.2)).vocabulary, "less than a hundredth"


def test_memory_grows_with_the_size() -> None:
    """60 MB of the process, and 60 of the model for its 24 MB: 3 blocks take 60 + 45."""
    assert list(broken(facts(memory_mb=119.0), MEASURED.whole, False)) == ["memory"]
    assert not list(broken(facts(memory_mb=105.0), deep(FACTS, 3), False))
    assert list(broken(facts(memory_mb=104.9), deep(FACTS, 3), False)) == ["memory"]


def test_one_block_has_nothing_to_cut() -> None:
    alone = facts(blocks=1, cut=None, whole=replace(MEASURED.whole, blocks=1), latency_ms=0.5)
    assert pick(alone).shape.kind == "cnn" and "A block takes" not in said(tight_latency(alone))


# Roads.


def test_latency_tells_the_limit_the_blocks_and_the_tokenizer() -> None:
    road = tight_latency(facts(latency_ms=2.0))
    assert road.taken and road.sets == {"student": "cut", "blocks": 4, "vocabulary": False}
    for words in (
        "takes 2.60 ms at p95",
        "0.0400 ms of it in the tokenizer",
        "2.00 ms are allowed",
        "A block takes 0.400",
    ):
        assert words in said(road)
    assert "4 blocks: 1.80 ms at p95 and 20.0 MB, worked out from what was measured." in said(road)
    assert not tight_latency(facts(latency_ms=2.6)).taken
    assert "1.60 ms at p50" in said(tight_latency(facts(latency_ms=9.0, percentile="p50")))


def test_size_tells_what_the_tokens_weigh() -> None:
    road = tight_size(facts(size_mb=20.0))
    assert road.taken and road.sets == {"student": "", "blocks": 6, "vocabulary": True}
    assert "12,000 of 30,000 tokens are needed for these texts; without the others 8.00 MB go" in said(road)
    assert "the whole model: 2.60 ms at p95 and 16.0 MB, worked out from what was measured." in said(road)
    unpressed = tight_size(FACTS)
    assert not unpressed.taken and "8.00 MB of it are for 18,000 of 30,000 tokens that these texts never" in said(
        unpressed
    )
    assert "--max-size 30.0 MB and --max-memory 500 MB hold." in said(tight_size(facts(size_mb=30.0, memory_mb=500.0)))
    assert tight_size(facts(memory_mb=100.0)).taken


@pytest.mark.parametrize(
    ("changes", "sets"),
    [
        ({"train": 2000}, None),
        ({"train": 1999}, {"grown": True}),
        ({"train": 1999, "unlabeled": 50}, {}),
        ({"train": 1999, "task": "answer"}, None),
        ({"train": 499}, {"grown": True}),
        ({"train": 499, "trained": True}, {"grown": True}),
        ({"train": 499, "unlabeled": 50, "family": "modernbert"}, {}),
    ],
)
def test_few_labels(changes: dict[str, Any], sets: dict[str, Any] | None) -> None:
    road = few_labels(facts(**changes), True)
    assert road.taken == (sets is not None) and dict(road.sets) == (sets or {})
    assert f"{changes['train']:,} labelled rows, 3,310 of 'bad'" in road.why
    few = changes["train"] < 500 and not changes.get("trained")
    assert ("All of the teacher is tuned all the same: with 200 labels bitfit was 18.0 points" in road.why) == few


def test_few_labels_without_a_student_to_teach() -> None:
    """Bare texts are for a student; the recipe has one only where time or size is tight."""
    for changes in ({"train": 1999}, {"train": 499, "unlabeled": 50}):
        road = roads(facts(**changes))[1]
        assert road.name == "few labels" and not road.sets and not road.taken
        assert "More texts would teach a student, and none is on this way." in road.why
    assert roads(facts(train=1999, size_mb=5.0))[1].sets == {"grown": True}


def test_many_tasks_leave_the_base_as_it_is() -> None:
    many = facts(tasks=10, latency_ms=1.0, size_mb=5.0, train=300)
    road = many_tasks(many)
    assert road.sets == {"deltas": True, "tuned": "bitfit"}
    assert "10 whole models take 908 MB, one base and 10 deltas about 91.8 MB" in said(road)
    assert course(many, roads(many)) == Course(deltas=True, tuned="bitfit"), "no cut, no student"
    for pressed in (tight_size(many), tight_latency(many)):
        assert not pressed.taken and "too little, but a base that serves many tasks is not cut" in pressed.why
    assert many_tasks(facts(tasks=2)).sets["tuned"] == "lora", "6,920 labels"
    assert "The several tasks of the data: one model." in many_tasks(facts(task="several")).why


def test_long_documents() -> None:
    cut = long_documents(facts(over=0.2, p95=900, lost={512: 0.31}))
    assert cut.taken and not cut.sets and "20.0% are longer, and 31.0% of all tokens are behind the cut." in cut.why
    wide = long_documents(facts(limit=4096, p95=2048))
    assert wide.taken and wide.sets == {"window": WINDOW}
    assert "47% of a block's operations; seeing 64 to each side saves 43%" in wide.why, "2048 / (6 * 384 + 2048)"
    ours = f"{LOCAL_TIMES} times as fast, in {LOCAL_MB[0]} MB instead of {LOCAL_MB[1]}, and kept {LOCAL_KEPT:.1%}"
    assert ours in wide.why
    assert not long_documents(facts(limit=4096, p95=600)).sets
    for short in (1024, 2047):
        road = long_documents(facts(limit=4096, p95=short))
        assert not road.taken and not road.sets
        assert "and was slower where it was measured with fewer than 2,048 tokens" in road.why
    answers = long_documents(facts(task="answer", over=0.9, p95=2000))
    assert not answers.taken and "read in windows, so that nothing is lost" in answers.why


def test_a_shorter_cut_is_told_of_where_time_is_short_and_little_is_lost() -> None:
    texts = {"p95": 300, "max_length": 320, "lost": {64: 0.4, 128: 0.08, 256: 0.01, 512: 0.0}}
    assert "--max-length 128 would lose 8.0% of them" in long_documents(facts(**texts, latency_ms=1.0)).why
    assert "43% of their time" in long_documents(facts(**texts, latency_ms=1.0)).why
    assert "--max-length" not in long_documents(facts(**texts, latency_ms=9.0)).why, "the limit holds"
    assert "--max-length" not in long_documents(facts(**(texts | {"lost": {128: 0.2}}), latency_ms=1.0)).why


def test_little_memory() -> None:
    short = little_memory(facts(free_mb=1200))
    assert short.sets == {"frozen": 3, "micro_tokens": 2048} and "takes 1,000 MB; 1,200 MB are free." in said(short)
    assert not little_memory(facts(free_mb=1300)).taken
    guessed = little_memory(facts(train_mb=None, texts_per_s=None, free_mb=500))
    assert guessed.taken and "takes at least 454 MB" in said(guessed)
    assert "does not tell" in little_memory(facts(free_mb=None)).why


# Time, and what to expect.


def test_time_is_of_the_teacher_its_answers_and_the_student() -> None:
    """At 100 texts a second: 3 epochs of 1,000 rows, 6 of 1,500 with half the blocks, and a third of a step each."""
    planned, short = Course(student="cut", blocks=3), facts(train=1000, unlabeled=500)
    assert takes(short, planned) == pytest.approx(30 + 45 + 5)
    assert takes(facts(train=1000, trained=True), planned) == pytest.approx(30 + 1000 / 300)
    assert takes(facts(train=1000), replace(planned, grown=True)) == pytest.approx(30 + 150 + 5000 / 300)
    assert takes(facts(train=1000), Course(deltas=True, tuned="lora")) == pytest.approx(160), "16 epochs"
    assert takes(facts(train=8000), Course(deltas=True, tuned="lora")) == pytest.approx(400), "5 epochs"
    assert takes(facts(texts_per_s=None), planned) is None
    assert "was not measured" in little_time(facts(texts_per_s=None), planned).why


def test_epochs_give_way_to_a_time_limit() -> None:
    whole = facts(train=1000, time_limit_s=15.0)
    road = little_time(whole, Course())
    assert road.sets == {"shorter": 0.5} and "each stage trains 50% of its usual epochs" in said(road)
    assert course(whole, roads(whole)).shorter == 0.5 and takes(whole, Course(shorter=0.5)) == pytest.approx(15)
    assert "give more time, or fewer rows" in little_time(facts(train=1000, time_limit_s=4.0), Course()).why
    assert not little_time(facts(train=1000, time_limit_s=30.0), Course()).taken


def test_what_to_expect_is_weighed_against_what_is_asked() -> None:
    asked = facts(quality=Quality(0.97, True, None, "97%teacher"))
    assert "expect it not to be met" in expected(asked, Course(student="cnn"))
    assert "expect it not" not in expected(asked, Course(student="cut", blocks=3))
    assert "expect it not" in expected(facts(quality=Quality(0.99, True, None, "99%teacher")), Course(student="cut"))
    assert "A CNN" not in expected(FACTS, Course(student="cut")) and not expected(FACTS, Course(deltas=True))


def test_the_figures_that_rules_lean_on_are_those_of_the_evidence() -> None:
    text = (Path(__file__).parent.parent / "docs" / "evidence.md").read_text(encoding="utf-8")
    for kind, row in (("cut", "MiniLM, 3 blocks"), ("cnn", "CNN"), ("static", "static")):
        kept = re.search(rf"^\| {row} \| \d+ \| ([\d.]+)%", text, re.M)
        assert kept and float(kept[1]) == pytest.approx(100 * KEPT[kind][0], abs=1)
    own = re.search(r"A 3-block student.*?Measured: \*\*([\d.]+)%\*\* kept", text, re.S)
    assert own and float(own[1]) == pytest.approx(100 * SAME, abs=1)
    behind = re.search(r"^\| BitFit rivals full tuning on few labels \|.*\| 200 labels; .*\| -([\d.]+) \(", text, re.M)
    assert behind and float(behind[1]) == BEHIND
    local, full = (
        re.search(rf"^\| {kind} \| {LOCAL_AT:,} \| [\d.]+ \| ([\d.]+)% .*\| ([\d.]+)x .*\| (\d+) \(", text, re.M)
        for kind in ("local", "full")
    )
    assert local and full and (int(local[3]), int(full[3])) == LOCAL_MB
    assert float(local[1]) == pytest.approx(100 * LOCAL_KEPT) and float(local[2]) == LOCAL_TIMES
    slower = re.findall(r"^\| local \| (?:128|512) \|.*\| ([\d.]+)x", text, re.M)
    assert len(slower) == 2 and all(float(one) < 1 for one in slower)
    brought = [
        re.search(rf"^\| {row}.*\| \+([\d.]+) \(", text, re.M)
        for row in ("soft labels with bare", "augmentation helps")
    ]
    assert [found and float(found[1]) for found in brought] == [3.3, 3.3]
