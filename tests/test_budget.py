"""What the user can afford: every way to write it, and what is said where it cannot be read."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.budget import Budget, Quality, fitting, least_quality, over, read
from smidgen.errors import BudgetError


@pytest.mark.parametrize(
    ("text", "percentile", "ms"),
    [
        ("p95=2ms", "p95", 2.0),
        ("1.5ms", "p95", 1.5),
        ("p50=800us", "p50", 0.8),
        (" p99 = 1 s ", "p99", 1000.0),
        (".5MS", "p95", 0.5),
    ],
)
def test_latency(text: str, percentile: str, ms: float) -> None:
    found = read(latency=text)
    assert (found.percentile, found.latency_ms) == (percentile, pytest.approx(ms))


@pytest.mark.parametrize(
    ("text", "mb"),
    [("25MB", 25.0), ("25mb", 25.0), ("25MiB", 26.2144), ("300KB", 0.3), ("1.5 GB", 1500.0), ("2048B", 0.002048)],
)
def test_size_and_memory(text: str, mb: float) -> None:
    found = read(size=text, memory=text)
    assert found.size_mb == found.memory_mb == pytest.approx(mb)


@pytest.mark.parametrize(
    ("text", "at_least", "of_teacher", "metric"),
    [
        ("97%teacher", 0.97, True, None),
        ("97 % of the teacher", 0.97, True, None),
        ("99.5%ofteacher", 0.995, True, None),
        ("102%teacher", 1.02, True, None),
        ("accuracy>=0.91", 0.91, False, "accuracy"),
        ("f1 > 80%", 0.8, False, "f1"),
        ("0.91", 0.91, False, None),
        ("91%", 0.91, False, None),
    ],
)
def test_quality(text: str, at_least: float, of_teacher: bool, metric: str | None) -> None:
    found = read(quality=text).quality
    assert found is not None
    assert (found.of_teacher, found.metric, found.text) == (of_teacher, metric, text)
    assert found.at_least == pytest.approx(at_least)


@pytest.mark.parametrize(("text", "seconds"), [("30m", 1800), ("2h", 7200), ("90s", 90), ("1.5H", 5400)])
def test_time_limit(text: str, seconds: float) -> None:
    assert read(time_limit=text).time_limit_s == seconds


def test_nothing_asked_is_no_limit() -> None:
    assert read() == Budget()
    assert read().to_data() == {
        "latency": None,
        "size_mb": None,
        "memory_mb": None,
        "quality": None,
        "time_limit_s": None,
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            {"latency": "2"},
            "--max-latency 2: wanted a number and a unit. Write it like p95=2ms or 1.5ms.",
        ),
        (
            {"latency": "p955=2ms"},
            "--max-latency p955=2ms: 'p955' is not one of p50, p95, p99. Did you mean 'p95'? Write it like p95=2ms.",
        ),
        (
            {"latency": "2mss"},
            "--max-latency 2mss: no unit 'mss', wanted one of us, ms, s. Did you mean 'ms'? "
            "Write it like p95=2ms or 1.5ms.",
        ),
        ({"latency": "0ms"}, "--max-latency 0ms: nothing can be that small. Write it like p95=2ms or 1.5ms."),
        ({"latency": "-1ms"}, "--max-latency -1ms: wanted a number and a unit. Write it like p95=2ms or 1.5ms."),
        ({"latency": ""}, "--max-latency : wanted a number and a unit. Write it like p95=2ms or 1.5ms."),
        (
            {"size": "25MBs"},
            "--max-size 25MBs: no unit 'MBs', wanted one of B, KB, MB, GB, KIB, MIB, GIB. Did you mean 'MB'? "
            "Write it like 25MB or 20MiB.",
        ),
        ({"size": "small"}, "--max-size small: wanted a number and a unit. Write it like 25MB or 20MiB."),
        ({"memory": "300"}, "--max-memory 300: wanted a number and a unit. Write it like 300MB."),
        (
            {"time_limit": "2d"},
            "--time-limit 2d: no unit 'd', wanted one of s, m, h. Write it like 30m or 2h.",
        ),
        ({"time_limit": ""}, "--time-limit : wanted a number and a unit. Write it like 30m or 2h."),
        (
            {"quality": "acuracy>=0.9"},
            "--min-quality acuracy>=0.9: no metric 'acuracy', wanted one of accuracy, f1. Did you mean 'accuracy'?",
        ),
        (
            {"quality": "97"},
            "--min-quality 97: 97 is no share of 1. Write it like 97%teacher or 0.91.",
        ),
        (
            {"quality": "0%teacher"},
            "--min-quality 0%teacher: 0 is no share of 1. Write it like 97%teacher or 0.91.",
        ),
        (
            {"quality": "very good"},
            "--min-quality very good: not understood. Write it like 97%teacher, 'accuracy>=0.91' (in quotes) or 0.91.",
        ),
    ],
)
def test_what_cannot_be_read(words: dict[str, str], message: str) -> None:
    with pytest.raises(BudgetError) as caught:
        read(**words)
    assert str(caught.value) == message
    assert caught.value.exit_code == 2


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    for word in ("latency", "size", "memory", "quality", "time_limit"):
        try:
            read(**{word: text})
        except BudgetError as error:
            assert str(error).startswith(("--max-", "--min-", "--time-limit"))


NUMBERS = {
    "latency": {"p50_ms": 1.0, "p95_ms": 3.0},
    "size_mb": 10.0,
    "memory_mb": None,
    "quality": {"value": 0.8},
    "dev_quality": {"value": 0.9},
}


@pytest.mark.parametrize(
    ("words", "key", "broken"),
    [
        ({"latency": "2ms"}, "quality", {"latency": 1.5}),
        ({"latency": "p50=2ms"}, "quality", {}),
        ({"latency": "3ms"}, "quality", {}),  # a limit is kept where it is just reached
        ({"latency": "p99=1ms"}, "quality", {"latency": 3.0}),  # was not measured, and is no less than p95
        ({"latency": "p99=4ms"}, "quality", {}),
        ({"size": "4MB", "memory": "1MB"}, "quality", {"size": 2.5}),
        ({"quality": "0.96"}, "quality", {"quality": 1.2}),
        ({"quality": "0.96"}, "dev_quality", {"quality": 0.96 / 0.9}),
        ({"quality": "100%teacher"}, "quality", {"quality": 0.88 / 0.8}),
        ({"quality": "90%teacher"}, "quality", {}),
        ({"quality": "0.7", "size": "10MB"}, "quality", {}),
    ],
)
def test_over(words: dict[str, str], key: str, broken: dict[str, float]) -> None:
    assert over(read(**words), NUMBERS, teacher_quality=0.88, key=key) == pytest.approx(broken)


def test_calls_that_tell_the_percentile() -> None:
    assert [read(limit).calls for limit in ("2ms", "p50=2ms", "p99=2ms")] == [300, 300, 1000]
    assert fitting(read("p99=1ms"), NUMBERS, None, "quality") == "--max-latency p99=3.2ms"


def test_over_with_nothing_measured() -> None:
    everything = read("1ms", "1MB", "1MB", "97%teacher", "1s")
    nothing: dict[str, Any] = {}
    assert over(everything, nothing, teacher_quality=None, key="quality") == {}
    assert over(everything, {"latency": None, "quality": None}, teacher_quality=1.0, key="quality") == {}


def test_least_quality() -> None:
    assert least_quality(Budget(), 0.9) is None
    assert least_quality(read(quality="0.8"), None) == 0.8
    assert least_quality(read(quality="50%teacher"), None) is None
    assert least_quality(read(quality="50%teacher"), 0.9) == pytest.approx(0.45)


def test_to_data_is_plain() -> None:
    found = read("p99=2ms", "25MB", quality="97%teacher").to_data()
    assert found["latency"] == {"percentile": "p99", "ms": 2.0}
    assert found["quality"] == {"at_least": 0.97, "of_teacher": True, "metric": None, "text": "97%teacher"}
    assert Quality(**found["quality"]) == read(quality="97%teacher").quality


@pytest.mark.parametrize(
    ("words", "fits"),
    [
        ({"latency": "2ms"}, "--max-latency p95=3.2ms"),
        ({"latency": "p50=0.9ms", "size": "4MB"}, "--max-latency p50=1.1ms --max-size 10MB"),
        ({"quality": "0.95"}, "--min-quality '0.9'"),
        ({"quality": "accuracy>=95%"}, "--min-quality 'accuracy>=0.9'"),
        ({"quality": "99%teacher"}, "--min-quality 94.7%teacher"),
        ({"latency": "5ms"}, ""),
    ],
)
def test_a_budget_that_would_fit(words: dict[str, str], fits: str) -> None:
    assert fitting(read(**words), NUMBERS, 0.95, "dev_quality") == fits


@given(
    st.floats(1e-3, 1e4),
    st.floats(1e-3, 1e4),
    st.floats(1e-2, 1),
    st.floats(0.3, 1),
    st.sampled_from(["1.2", "accuracy>=1.2", "120%teacher"]),
)
def test_what_would_fit_does_fit_when_it_is_typed(
    ms: float, mb: float, quality: float, teacher: float, least: str
) -> None:
    numbers = {"latency": {"p95_ms": ms}, "size_mb": mb, "memory_mb": mb, "quality": {"value": quality}}
    words = fitting(read("0.0001ms", "1B", "1B", least), numbers, teacher, "quality")
    typed = dict(zip(words.replace("'", "").split()[::2], words.replace("'", "").split()[1::2], strict=True))
    if "--min-quality" in typed and quality / teacher > 1.2:
        return  # more than a budget can ask
    again = read(
        typed.get("--max-latency"), typed.get("--max-size"), typed.get("--max-memory"), typed.get("--min-quality")
    )
    assert over(again, numbers, teacher, "quality") == {}


def test_a_quality_of_nothing_is_not_advised() -> None:
    assert fitting(read("1ms", quality="0.9"), {**NUMBERS, "quality": {"value": 0.0}}, None, "quality") == ""
