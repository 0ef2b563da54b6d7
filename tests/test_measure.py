"""Measurement: statistics against brute force and scipy, times against fakes whose times are known."""

from __future__ import annotations

import itertools
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from smidgen.errors import InputError, ModelError
from smidgen.measure import environment as env
from smidgen.measure.memory import memory
from smidgen.measure.number import Number
from smidgen.measure.quality import agreement, difference, kept, mcnemar, quality, resampled_rows, resolvable, wilson
from smidgen.measure.size import parameters
from smidgen.measure.speed import BLOCK, SETTLE, Latency, latency, order_interval, ratio, throughput
from smidgen.runtime import load, machine
from smidgen.tasks.classify import Classify

pytestmark = pytest.mark.alone

TASK = Classify(("no", "yes"))


def logits_with(correct: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Logits (n, 2) that decide right exactly where `correct` says so."""
    return np.eye(2, dtype=np.float32)[np.where(correct, gold, 1 - gold)]


@pytest.fixture
def rows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gold of 400 rows, a teacher right on 90 % of them and a student right on about 85 %."""
    draw = np.random.default_rng(0)
    gold = draw.integers(0, 2, 400)
    teacher = np.arange(400) % 10 > 0
    student = teacher & (draw.random(400) > 0.06)
    return gold, logits_with(teacher, gold), logits_with(student, gold)


def test_quality_has_the_textbook_interval(rows):
    gold, teacher, _ = rows
    number = quality(TASK, teacher, gold, resamples=4000)
    assert number.value == pytest.approx(0.9) and number.n == 400 and number.conditions["metric"] == "accuracy"
    half = 1.96 * math.sqrt(0.9 * 0.1 / 400)
    assert number.low == pytest.approx(0.9 - half, abs=0.004) and number.high == pytest.approx(0.9 + half, abs=0.004)
    assert quality(TASK, teacher, gold, seed=3) == quality(TASK, teacher, gold, seed=3)


def test_kept_is_paired(rows):
    gold, teacher, student = rows
    same = kept(TASK, teacher, teacher, gold)
    assert (same.value, same.low, same.high) == (1, 1, 1)
    number = kept(TASK, student, teacher, gold, seed=5)
    index = np.concatenate(list(resampled_rows(400, 1000, 5)))
    right = [TASK.correct(x, gold)[index].mean(-1) for x in (student, teacher)]
    assert number.value == TASK.score(student, gold) / TASK.score(teacher, gold)
    assert [number.low, number.high] == pytest.approx(list(np.percentile(right[0] / right[1], [2.5, 97.5])))
    apart = quality(TASK, student, gold)
    assert number.high - number.low < (apart.high - apart.low) / apart.value
    with pytest.raises(InputError, match=r"teacher's accuracy is 0\.000, wanted more than 0"):
        kept(TASK, student, logits_with(np.zeros(400, bool), gold), gold)


def test_difference_is_paired_and_in_points(rows):
    gold, teacher, student = rows
    assert difference(TASK, teacher, teacher, gold) == (0, 0)
    low, high = difference(TASK, teacher, student, gold)
    assert 0 < low < 100 * (TASK.score(teacher, gold) - TASK.score(student, gold)) < high
    assert difference(TASK, student, teacher, gold) == pytest.approx((-high, -low))
    index = next(iter(resampled_rows(400, 1000, 0)))
    apart = [TASK.correct(x, gold)[index].mean(-1) for x in (teacher, student)]
    assert (low, high) == pytest.approx(tuple(np.percentile(100 * (apart[0] - apart[1]), [2.5, 97.5])))


def test_agreement_counts_equal_decisions(rows):
    _, teacher, student = rows
    number = agreement(TASK, teacher, student)
    assert number.value == (teacher.argmax(-1) == student.argmax(-1)).mean()
    reference = stats.binomtest(round(number.value * 400), 400).proportion_ci(method="wilson")
    assert (number.low, number.high) == pytest.approx((reference.low, reference.high))
    many = Classify(("a", "b"), multi_label=True)
    assert agreement(many, np.array([[1.0, -1], [1, 1]]), np.array([[1.0, 1], [2, 2]])).value == 0.5
    with pytest.raises(InputError, match="400 and 399 rows"):
        agreement(TASK, teacher, student[1:])


@pytest.mark.parametrize(("hits", "n"), [(0, 7), (7, 7), (3, 11), (999, 1000)])
def test_wilson_equals_scipy(hits, n):
    reference = stats.binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits, n) == pytest.approx((reference.low, reference.high), abs=1e-12)
    assert wilson(n, n)[1] == 1 and wilson(0, n)[0] == 0, "what was measured lies in its interval"


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (5, 5), (3, 12), (40, 18), (900, 1000), (0, 3000)])
def test_mcnemar_equals_the_binomial_test(only_a, only_b):
    a = np.array([True] * only_a + [False] * only_b + [True, False])
    b = np.array([False] * only_a + [True] * only_b + [True, False])
    wanted = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert mcnemar(a, b) == pytest.approx(wanted, rel=1e-9) and mcnemar(b, a) == mcnemar(a, b)


def test_resolvable_is_where_the_interval_leaves_zero():
    for n, d in itertools.product((50, 872, 20000), (0.02, 0.1, 0.5)):
        x = resolvable(n, d) / 100
        half = stats.norm.ppf(0.975) * math.sqrt((d - x * x) / n)
        assert x == pytest.approx(half)
    assert resolvable(872, 0.1) == pytest.approx(2.09, abs=0.01)
    with pytest.raises(InputError, match="got n = 0"):
        resolvable(0, 0.1)


def test_resampled_rows_come_in_pieces_that_make_up_the_whole(monkeypatch):
    monkeypatch.setattr("smidgen.measure.quality.CELLS", 70)
    pieces = list(resampled_rows(10, 20, 0))
    assert [piece.shape for piece in pieces] == [(7, 10), (7, 10), (6, 10)]
    with pytest.raises(InputError, match="no rows to measure on"):
        next(resampled_rows(0, 10, 0))


@pytest.mark.parametrize("share", [0.5, 0.95])
@pytest.mark.parametrize("n", [10, 300, 1000])
def test_order_interval_holds_what_it_says(share, n):
    ordered = np.arange(1, n + 1)
    low, high = order_interval(ordered, share)
    held = stats.binom.cdf(high - 1, n, share) - stats.binom.cdf(low - 1, n, share)
    at_the_end = low == 1 or high == n
    assert held >= 0.95 or at_the_end
    if not at_the_end:  # one rank narrower on either side would lose too much
        assert stats.binom.cdf(low, n, share) > 0.025 and stats.binom.cdf(high - 2, n, share) < 0.975


@dataclass
class Fake:
    """A candidate that takes a known time and writes down when it was called with what."""

    name: str
    seconds: float
    log: list[tuple[str, object]]

    def __call__(self, item: object) -> None:
        self.log.append((self.name, item))
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end:
            pass


def test_latency_is_interleaved_rotated_and_fair():
    log: list[tuple[str, object]] = []
    found = latency({name: Fake(name, 0, log) for name in "abc"}, range(50), calls=2 * BLOCK + 1, warm_up=3, threads=1)
    assert [name for name, _ in log[:9]] == list("aaabbbccc")
    blocks = [[item for _, item in group] for _, group in itertools.groupby(log[9:], key=lambda entry: entry[0])]
    order = [name for name, _ in itertools.groupby(log[9:], key=lambda entry: entry[0])]
    # a round's last and the next round's first are different candidates, so each block stands alone
    assert order == list("abcbcacab") and {len(block) for block in blocks} == {BLOCK + SETTLE}
    counted = {name: [x for n, b in zip(order, blocks, strict=True) if n == name for x in b[SETTLE:]] for name in "abc"}
    assert counted["a"] == counted["b"] == counted["c"] and sorted(counted["a"][:50]) == list(range(50))
    assert found["a"].n == 3 * BLOCK and found["a"].threads == 1 and found["a"].batch == 1


def test_latency_and_ratio_of_known_times():
    log: list[tuple[str, object]] = []
    found = latency({"slow": Fake("slow", 0.002, log), "fast": Fake("fast", 0.0005, log)}, ["x"], calls=100)
    assert found["slow"].p50_ms == pytest.approx(2, rel=0.3) and found["slow"].p99_ms is None
    assert found["slow"].low <= found["slow"].p95_ms <= found["slow"].high
    number = ratio(found["slow"], found["fast"])
    assert number.value == pytest.approx(4, rel=0.3) and number.low <= number.value <= number.high
    assert json.dumps(found["fast"].to_data()) and found["fast"].to_data()["threads"] is None
    other = latency({"slow": Fake("slow", 0, log)}, ["x"], calls=20)["slow"]
    with pytest.raises(InputError, match="wanted two candidates of one run"):
        ratio(found["slow"], other)


def test_means_tell_what_medians_do_not():
    """A model that is ten times as fast on most texts and as slow on the others."""
    calls = np.tile([10.0, 1, 1, 1, 1], (4, 4))
    mixed, slow = (
        Latency(*np.percentile(c, [50, 95]), None, 0, 0, c.size, 1, c) for c in (calls, np.full_like(calls, 10.0))
    )
    assert ratio(slow, mixed).value == 10 and mixed.mean_ms == pytest.approx(2.8)
    by_mean = ratio(slow, mixed, None)
    assert by_mean.value == pytest.approx(10 / 2.8) and by_mean.conditions["percentile"] is None


def test_p99_needs_a_thousand_calls():
    assert latency({"a": len}, ["x"], calls=1000)["a"].p99_ms is not None
    assert latency({"a": len}, ["x"], calls=980)["a"].p99_ms is None


def test_throughput_of_known_times():
    log: list[tuple[str, object]] = []
    candidates = {"slow": Fake("slow", 0.004, log), "fast": Fake("fast", 0.001, log)}
    found = throughput(candidates, [str(i) for i in range(80)], batch=32, repeats=5)
    assert [len(item) for _, item in log[2:6]] == [32, 32, 32, 16]  # one that does not count, then all
    assert found["fast"].texts_per_s / found["slow"].texts_per_s == pytest.approx(4, rel=0.3)
    assert found["slow"].texts_per_s == pytest.approx(80 / 0.012, rel=0.3)
    assert found["slow"].to_data()["batch"] == 32 and found["slow"].n == 5


def test_nothing_to_time_is_told():
    for call in (
        lambda: latency({}, ["x"]),
        lambda: latency({"a": len}, []),
        lambda: throughput({"a": len}, ["x"], 0),
    ):
        with pytest.raises(InputError, match="wanted 1 or more of each"):
            call()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest folder that the runtime takes: the first token's row of a table of 2 MB is the logits."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from tokenizers import Tokenizer, models, pre_tokenizers

    path = tmp_path_factory.mktemp("table")
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "good": 1, "bad": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text('{"model_max_length": 16}')
    (path / "config.json").write_text(json.dumps({"id2label": {"0": "no", "1": "yes"}}))
    table = np.zeros((250_000, 2), np.float32)
    table[1:3] = [[-1, 1], [1, -1]]
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["input_ids", "zero"], ["first"], axis=1),
            helper.make_node("Gather", ["t", "first"], ["logits"]),
        ],
        "table",
        [helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "l"]) for n in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", 2])],
        [numpy_helper.from_array(table, "t"), numpy_helper.from_array(np.array(0), "zero")],
    )
    (path / "onnx").mkdir()
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path / "onnx/model.onnx"
    )
    return path


def test_memory_is_that_of_a_fresh_process(folder):
    assert [row["label"] for row in load(folder, threads=1).predict(["good", "bad"])] == ["yes", "no"]
    ballast = np.ones(60_000_000)  # 480 MB here must not be seen there
    number = memory(folder, ["good", {"text": "bad", "text_pair": "good"}], threads=1)
    assert ballast[-1] == 1 and number.unit == "MB" and number.n == 2
    base, own = number.conditions["baseline_mb"], number.conditions["model_mb"]
    assert 20 < base < number.value < 400 and own > 2 and number.value == pytest.approx(base + own, abs=0.2)


def test_memory_of_what_does_not_load_is_told(tmp_path):
    with pytest.raises(ModelError, match=r"memory of .* could not be measured: .*no config\.json"):
        memory(tmp_path, ["good"])


def test_parameters_are_counted_from_the_header(tmp_path):
    from safetensors.numpy import save_file

    save_file({"a": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.float16)}, tmp_path / "model.safetensors")
    assert parameters(tmp_path).value == parameters(tmp_path / "model.safetensors").value == 17
    with pytest.raises(ModelError, match="no safetensors file to count weights in"):
        parameters(tmp_path / "onnx")


def test_number_is_plain_data():
    number = Number("size_mb", 1.5, "MB", 4, conditions={"a": 1})
    assert json.loads(json.dumps(number.to_data())) == {
        "name": "size_mb",
        "value": 1.5,
        "unit": "MB",
        "n": 4,
        "low": None,
        "high": None,
        "conditions": {"a": 1},
    }


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, math.inf),
        ({"cpu.max": "max 100000\n"}, math.inf),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.0),
        ({"cpu.max": "nonsense"}, math.inf),
    ],
)
def test_a_containers_share_of_the_processors(files, wanted, tmp_path, monkeypatch):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    assert machine.quota() == wanted
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(64))
    assert machine.usable_cores() == (64 if math.isinf(wanted) else 2)


def test_environment_tells_the_machine_but_not_its_name():
    found = env.environment()
    assert json.dumps(found) and found["cores"] >= 1 and found["memory_mb"] > 100
    assert {"cpu", "features", "platform", "python", "versions", "commit"} <= found.keys()
    assert found["versions"]["numpy"] == np.__version__
    import platform

    assert platform.node() not in json.dumps(found) and str(Path.cwd()) not in json.dumps(found)


@pytest.mark.parametrize(
    ("text", "name", "features"),
    [
        (
            "processor : 0\nmodel name\t: Some CPU\nflags\t: fpu avx2 amx_bf16\n\nprocessor : 1\n",
            "Some CPU",
            ("avx2", "amx_bf16"),
        ),
        ("processor : 0\nFeatures : fp asimd asimddp i8mm\n", None, ("asimd", "asimddp", "i8mm")),
    ],
)
def test_features_are_read_from_cpuinfo(tmp_path, monkeypatch, text, name, features):
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    _forget()
    try:
        assert machine.features() == features
        assert machine.cpu() == name if name else machine.cpu()
    finally:
        _forget()


def _forget() -> None:
    machine.cpuinfo.cache_clear()
    machine.instructions.cache_clear()


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (
            "hw.optional.arm.FEAT_FP16: 1\nhw.optional.arm.FEAT_BF16: 0\nhw.optional.arm.FEAT_I8MM: 1\n",
            {"asimd", "asimdhp", "i8mm"},
        ),
        (
            "machdep.cpu.features: FPU SSE4.2\nmachdep.cpu.leaf7_features: AVX2 BMI2\n",
            {"fpu", "sse4.2", "avx2", "bmi2"},
        ),
        ("kern.ostype: Darwin\n", set()),
    ],
)
def test_what_macos_says_is_spelt_as_linux_does(said, wanted):
    assert machine.spelt_as_linux(said) == wanted


@pytest.mark.parametrize(
    ("have", "why"),
    [
        ({"avx2", "avx512_fp16"}, ""),
        ({"avx2", "f16c"}, "this processor has none of amx_fp16, asimdhp, avx512_fp16"),
        (set(), ""),
    ],
)
def test_an_emulated_precision_is_told(monkeypatch, have, why):
    monkeypatch.setattr(machine, "instructions", lambda: frozenset(have))
    assert machine.lacking(machine.FP16) == why
