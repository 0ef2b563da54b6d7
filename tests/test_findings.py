"""What a report says in words: numbers, the lines of the budget, where the time went."""

from __future__ import annotations

from typing import Any

import pytest
from reports import SAMPLE, lost, missed, sample, untested

from smidgen import findings, words


@pytest.mark.parametrize(
    ("value", "said"),
    [(1.4312, "1.43"), (53.94, "53.9"), (0.0821, "0.0821"), (112.44, "112.4"), (371.0, "371"), (9420.2, "9,420")],
)
def test_plain(value: float, said: str) -> None:
    assert words.plain(value) == said


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), True, "x"])
def test_what_is_no_number_was_not_measured(value: object) -> None:
    said = {write(value) for write in (words.plain, words.count, words.seconds, words.score, words.gb, words.ms)}
    assert said == {"not measured"}
    assert words.plain(0) == "0"


def test_scores_are_percent_only_for_shares() -> None:
    assert words.score(0.8726, "accuracy") == "87.3\u00a0%" and words.score(0.8726, "macro_f1") == "87.3\u00a0%"
    assert words.score(0.8726, "spearman") == "0.873"
    assert words.ranged({"metric": "mcc", "value": 0.5, "low": 0.41, "high": 0.59}) == "0.500 (0.410–0.590)"
    assert words.ranged({"value": 2.0, "low": None, "high": None}, "times") == "2.00×"


def test_units_and_settings() -> None:
    assert words.gb(15600) == "15.6\u00a0GB" and words.seconds(301.2) == "301.2\u00a0s (5\u00a0min)"
    assert words.calls({"prune.layers": {"keep": 3, "rule": "auto"}, "tune.full": {}}) == [
        "prune.layers(keep=3, rule=auto)",
        "tune.full()",
    ]
    assert words.short("a\n b" + "c" * 40) == "a b" + "c" * 32 + "…"


def plain(text: str) -> str:
    return text.replace("\u00a0", " ")


def test_headline_says_the_verdict_in_words() -> None:
    said = "3 blocks, int8: 1.43 ms p95, 17.5 MB, keeps 98.2 % of the teacher (95 % interval 97.1–99.3 %)"
    assert plain(findings.headline(SAMPLE)) == said
    assert findings.headline(lost()) == "No candidate meets the whole budget"
    said = "3 blocks, int8: 1.43 ms p95, 17.5 MB, accuracy 88.0 % on dev (95 % interval 86.0–89.9 %)"
    assert plain(findings.headline(untested())) == said


def test_an_interval_around_the_limit_is_said() -> None:
    report = sample()
    report["winner"]["numbers"]["quality_kept"] = {"value": 0.975, "low": 0.965, "high": 0.985}
    quality = findings.constraints(report)[-1]
    assert quality.met and "lies on both sides of 97" in quality.note


def test_a_quality_is_asked_for_in_the_metric_of_the_task_unless_it_names_one() -> None:
    report = sample()
    assert plain(findings.constraints(report)[-1].wanted) == "accuracy at least 97 % of the teacher’s"
    report["budget"]["quality"] = {"at_least": 0.91, "of_teacher": False, "metric": "f1", "text": "f1>=0.91"}
    quality = findings.constraints(report)[-1]
    assert (plain(quality.wanted), quality.met) == ("f1 at least 91 %", False)


def test_constraints_without_a_winner_name_the_closest() -> None:
    report = lost()
    report["budget"]["latency"]["ms"] = 0.9
    report["budget"] |= {"memory_mb": 100.0, "time_limit_s": 60.0}
    latency, size, memory, quality, time = findings.constraints(report)
    assert (latency.by, latency.met_by, latency.met) == ("1 block, int8", "1 of 5", True)
    assert (memory.by, memory.met) == ("", None)
    assert (quality.by, quality.note) == ("4 blocks, int8", "On dev: the test set was not read for it.")
    assert size.met and not time.met and "the verdict does not count it" in time.note


def test_without_a_test_set_dev_judges() -> None:
    quality = findings.constraints(untested())[-1]
    assert quality.met and quality.note == "On dev: there is no test set."
    assert findings.percentiles([entry for _, entry in findings.compared(untested())]) == ["p50", "p95"]


def test_what_was_chosen_and_missed_is_still_shown() -> None:
    report = missed()
    assert [role for role, _ in findings.compared(report)] == ["candidate", "teacher", *["baseline"] * 3]
    assert findings.compared(report)[0][1]["name"] == "3 blocks, int8"
    assert len(findings.losers(report)) == len(report["candidates"])
    assert findings.headline(report) == "3 blocks, int8 fits on dev, but not in the end"
    assert [(line.by, line.met) for line in findings.constraints(report)] == [
        *[("3 blocks, int8", True)] * 2,
        ("3 blocks, int8", False),
    ]
    assert findings.chosen(lost()) is None and findings.chosen(SAMPLE) is SAMPLE["winner"]


def test_the_time_adds_up() -> None:
    rows = findings.spent(SAMPLE)
    assert sum(time for _, time in rows) == pytest.approx(SAMPLE["timing"]["seconds"])
    names = [name for name, _ in rows]
    assert names[0] == "student (4 blocks, int8, distilled)"
    assert names[-2:] == ["22 shorter stages", "timing, judging and writing"]
    nothing: dict[str, Any] = sample() | {"timing": {"seconds": 0.0, "stages": []}}
    assert findings.spent(nothing) == []


def test_the_same_curves_are_told_once() -> None:
    found = findings.trained(SAMPLE)
    assert [(name, list(stages)) for name, stages in found] == [
        ("teacher", ["teacher"]),
        ("3 blocks, int8", ["student"]),
        ("4 blocks, int8", ["student"]),
        ("2 blocks, int8", ["student"]),
        ("3 blocks, int8, without distillation", ["plain"]),
    ]


def test_every_entry_is_listed_once_and_the_chosen_one_first() -> None:
    for report, first in ((sample(), "winner"), (missed(), "candidate"), (lost(), "teacher")):
        found = findings.listed(report)
        assert found[0].role == first and found[0].anchor == "entry-0"
        names = [one.entry["name"] for one in found]
        everyone = [report["teacher"], *report["candidates"], *report["baselines"]]
        assert sorted(names) == sorted(entry["name"] for entry in everyone)


def test_what_an_entry_cost() -> None:
    report = sample()
    ids = {stage["id"]: stage["seconds"] for stage in report["timing"]["stages"] if not stage["reused"]}
    own = [step["id"] for step in report["winner"]["lineage"]]
    spent, reused = findings.cost(report, report["winner"])
    assert spent == pytest.approx(sum(ids.get(one, 0) for one in own)) and spent > 0
    assert reused == sum(one not in ids for one in own)
    assert findings.cost(report, {"lineage": None}) == (0, 0)


def test_how_sure_the_choice_is() -> None:
    assert findings.choice(SAMPLE) == "" and findings.alternatives(SAMPLE) == []
    alone = {"compared": 1, "among": 1, "sure": 1.0, "ties": []}
    assert findings.choice({"choice": alone}) == "1 candidate was compared on dev, 1 of them to the end."
    said = {"compared": 12, "among": 4, "sure": 0.31, "ties": ["b", "c"]}
    assert plain(findings.choice({"choice": said})) == (
        "12 candidates were compared on dev, 4 of them to the end. In 31.0 % of the resamples of dev the winner is the "
        "best of them. Dev cannot tell it from b, c."
    )
    kept = {"compared": 4, "among": 1, "sure": 0.83, "ties": [], "keeps": True}
    assert plain(findings.choice({"choice": kept})) == (
        "4 candidates were compared on dev, 1 of them to the end. In 83.0 % of the resamples of dev the winner keeps "
        "the quality asked for."
    )


def test_the_best_along_each_axis() -> None:
    numbers = {"dev_quality": None, "latency": {"p95_ms": 1.0}, "size_mb": 3.0}
    told = [
        {"axis": "fastest", "name": "1 block, int8", "breaks": ["quality", "size"]},
        {"axis": "smallest", "name": "3 blocks, int8", "breaks": []},
        {"axis": "best", "name": "nobody", "breaks": [], "numbers": numbers},
    ]
    fast, small, best = findings.alternatives(sample() | {"alternatives": told})
    assert fast.anchor.startswith("entry-") and fast.why == "over the budget: quality, size"
    assert small.why == "the winner itself" and small.anchor == "entry-0"
    assert (best.anchor, best.numbers, best.why) == ("", numbers, "within the budget")


def test_of_many_classes_and_types_the_most_telling_are_shown() -> None:
    shown, more = findings.counted({f"c{i}": i for i in range(1000)})
    assert (len(shown), more, shown[-1]) == (12, 988, ("c999", 999)) and shown[0] == ("c988", 988)
    rows = [{"label": str(i), "winner": [9, i, 0]} for i in range(40)]
    kept, more = findings.types({"found": rows})
    assert (len(kept), more, kept[0]["label"]) == (30, 10, "10")
    assert findings.f1([8, 1, 3]) == 16 / 20 and findings.f1([0, 0, 0]) is None


def test_a_p_value_in_words() -> None:
    assert "is not shown (McNemar’s exact test, p = 0.084)" in findings.chance(0.084)
    assert "by more than chance (McNemar’s exact test, p below 0.001)" in findings.chance(1e-9)
    assert findings.chance(None) == ""


def test_how_a_model_is_run_in_words() -> None:
    one = {"engine": "onnxruntime", "precision": "float32", "threads": 1, "calls": 2}
    many = {"engine": "openvino", "precision": "bfloat16", "threads": 2, "calls": 1}
    assert words.served({"latency": one, "throughput": one}) == "onnxruntime, 1 thread"
    both = "onnxruntime, 1 thread; several texts: openvino bfloat16, 2 threads"
    assert words.served({"latency": one, "throughput": many}) == both
    cascade = {"small": {"latency": one, "throughput": one}, "large": {"latency": many, "throughput": many}}
    assert words.served(cascade) == "small: onnxruntime, 1 thread; large: openvino bfloat16, 2 threads"
    assert words.served(None) == words.tried(None) == ""
    told = words.tried([one | {"ms": 1.5, "reason": ""}, many | {"ms": None, "reason": "it crashed"}])
    wanted = "onnxruntime, 1 thread 1.50 ms; openvino bfloat16, 2 threads left out: it crashed"
    assert told.replace(words.NBSP, " ") == wanted
