"""What the benchmarks of pruning, tuning and search would run, and what the evidence says of results."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import LABELS, data_files, model_folder

from smidgen.cascading import build
from smidgen.data import load_data
from smidgen.deferral import Choice
from smidgen.planner import plan
from smidgen.recipe import Files, Recipe, Stage
from smidgen.runtime import deployed_bytes, load

pytest.importorskip("jinja2")
sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

import budgets
import cuts
import evidence
import ledger
import outside
import races
import tunings
from common import GRAPHS, make, part
from pages import _words, prune, runtime, search, tune


def test_every_way_can_be_planned(tmp_path: Path) -> None:
    """From a fine-tuned model, or from a bare encoder; a fault in one would come to light after hours."""
    files = data_files(tmp_path)
    files["unlabeled"] = files["train"]
    splits = load_data(**files)
    tuned = str(model_folder(tmp_path / "tuned", labels=LABELS, blocks=6))
    bare = str(model_folder(tmp_path / "bare", blocks=6))
    ways = [(tuned, stages) for stages in (*cuts.TABLE.values(), *cuts.BASE.values())]
    ways += [(bare, one.stages) for claim in cuts.CLAIMS for one in (claim.better, claim.worse)]
    for model, stages in {repr(way): way for way in ways}.values():
        planned = plan(Recipe(model, Files(**files), (*stages, *GRAPHS)), splits)
        assert planned.stages[-1].leaves == "int8"


def test_every_tuning_can_be_planned(tmp_path: Path) -> None:
    """But for fusion, which wants the adapters that others leave."""
    files = data_files(tmp_path)
    splits = load_data(**files)
    for count, tried in ((6, (tunings.TABLE, tunings.REST)), (12, (tunings.BASE,))):
        bare = str(model_folder(tmp_path / str(count), blocks=count))
        ways = [way for group in tried for way in group.values()]
        ways += [tunings.frozen(n, 2, "off") for n in tunings.CACHED["MiniLM-6" if count == 6 else "MPNet"]]
        stages = [(Stage("tuned", way.methods, train=way.training),) for way in ways]
        stages += [one.stages for claim in tunings.CLAIMS for one in (claim.better, claim.worse) if not callable(one)]
        for each in {repr(one): one for one in stages}.values():
            planned = plan(Recipe(bare, Files(**files), each), splits)
            assert planned.stages[-1].leaves == "float"


@pytest.mark.parametrize("rates", races.RATES.values())
def test_every_candidate_of_the_race_can_be_planned(
    rates: tuple[float, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = data_files(tmp_path)
    splits = load_data(**files)
    bare = str(model_folder(tmp_path / "bare", blocks=6))
    monkeypatch.setattr(races, "MODEL", bare)
    job, found = races.space(0, files, rates)
    assert len({repr(body.steps) for body in found.values()}) == len(found)
    for body in found.values():
        assert plan(races.taught(job, races.resolve(bare), body, 1 / 9, 0), splits).stages[-1].leaves == "float"


def test_a_race_counts_what_it_trained_and_nothing_twice() -> None:
    """Of candidates the quality of which is their number, and the seconds their share."""
    asked: list[tuple[str, float]] = []

    def train(name: str, share: float, until: float) -> races.Trained:
        asked.append((name, share))
        return races.Trained(float(name), share)

    train.bodies = dict.fromkeys(map(str, range(27)))  # type: ignore[attr-defined]
    found = races.raced(train, 2)  # type: ignore[arg-type]
    assert found["best"] == "26" and found["dev"] == 26
    assert found["trainings"] == len(set(asked)) == 27 + 9 + 3 + 2
    assert found["seconds"] == pytest.approx(27 / 27 + 9 / 9 + 3 / 3 + 2)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two int8 folders whose weights differ."""
    root = tmp_path_factory.mktemp("graphs")
    files = data_files(root)
    tuned = [str(model_folder(root / f"tuned-{seed}", labels=LABELS, seed=seed)) for seed in (1, 2)]
    made = [make(root / "stages", load_data(**files), "int8", GRAPHS, files, model) for model in tuned]
    return [done[-1].artefact.path for done in made]


TEXTS = ["what a film", "no", "a great great film", "it was not bad at all", "so dull", "a"]


def heard(folder: Path, told: Path, models: int = 1) -> tuple[list[float], list[float], dict[str, Any]]:
    """What the stranger says of two batches of calls and in the end."""
    told.write_text(json.dumps({"texts": TEXTS, "threads": [1] * models}), encoding="utf-8")
    script = [sys.executable, str(Path(outside.__file__)), str(folder), str(told)]
    said = subprocess.run(script, input="[0, 2]\n[1]\n", capture_output=True, text=True, check=True).stdout
    first, second, end = map(json.loads, said.splitlines())
    return first, second, end


def test_a_stranger_says_what_smidgen_says(graphs: list[Path], tmp_path: Path) -> None:
    first, second, end = heard(graphs[0], tmp_path / "texts.json")
    assert (len(first), len(second)) == (2, 1) and min(first) > 0
    model = load(graphs[0])
    assert end["labels"] == [model.predict([text])[0]["label"] for text in TEXTS]
    assert end["bytes"] == deployed_bytes(graphs[0])
    assert len(end["tokenizer_ms"]) == len(TEXTS) and min(end["tokenizer_ms"]) > 0


def test_a_stranger_asks_both_models_of_a_cascade(graphs: list[Path], tmp_path: Path) -> None:
    small = load(graphs[0])
    sure = small.task.confidence(small.outputs(TEXTS), 1.5)
    folder = tmp_path / "cascade"
    build(folder, graphs, [Choice(1.5, float(np.sort(sure)[2]), 0.5, 1.0)], {})
    model = load(folder)
    assert sorted(model.answered(model.rows(TEXTS))[1]) == [0, 0, 0, 1, 1, 1]
    *_, end = heard(folder, tmp_path / "texts.json", 2)
    assert end["labels"] == [model.predict([text])[0]["label"] for text in TEXTS]
    assert end["bytes"] == deployed_bytes(folder)


def test_a_stranger_imports_nothing_of_ours() -> None:
    tree = ast.parse(Path(outside.__file__).read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names - {"json", "sys", "time", "pathlib", "typing", "collections", "__future__"} == {
        *("numpy", "onnxruntime", "tokenizers"),
    }


def test_a_part_of_a_file_has_its_rows_and_its_head(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f'"row, {i}",x\n' for i in range(9)), encoding="utf-8")
    (tmp_path / "b.jsonl").write_text("".join(f'{{"n": {i}}}\n' for i in range(9)), encoding="utf-8")
    table, lines = (
        Path(part(tmp_path / name, tmp_path / "part", 4, 1)).read_text(encoding="utf-8").splitlines()
        for name in ("a.csv", "b.jsonl")
    )
    assert table[0] == "text,label" and len(table) == 5 and len(lines) == 4
    assert [row[6] for row in table[1:]] == [line[6] for line in lines]  # the same rows by the same seed
    part(tmp_path / "b.jsonl", tmp_path / "part", 4, 2)
    assert (tmp_path / "part" / "b.jsonl").read_text(encoding="utf-8").splitlines() != lines


@pytest.mark.parametrize(
    ("right", "margin", "verdict"),
    [(0.9, 0.0, "holds"), (0.5, 0.0, "not resolved"), (0.1, 0.0, "does not hold"), (0.5, 0.2, "holds")],
)
def test_a_claim_is_judged_by_its_interval(
    right: float, margin: float, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    better, worse = ledger.Way((Stage("a", ()),)), ledger.Way((Stage("b", ()),))
    drawn = {"a": np.arange(400) % 10 < 10 * right, "b": np.arange(400) % 2 < 1}
    bench = ledger.Bench(lambda: None, "", (0, 1))
    monkeypatch.setattr(bench, "correct", lambda way: np.stack([drawn[way.stages[0].name]] * 2))
    row = bench.judged(ledger.Claim("c", "s", "t", better, worse, margin))
    assert row["verdict"] == verdict and row["difference"]["value"] == pytest.approx(right - 0.5)


def number(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


def run(method: str, asked: str, seed: int, speed: float, kept: float) -> dict[str, Any]:
    return {
        "seed": seed,
        "method": method,
        "asked": asked,
        "settings": {},
        "speedup": number(speed),
        "latency": {"p50_ms": 2 / speed, "p95_ms": 3 / speed, "p99_ms": None, "n": 300, "batch": 1, "threads": 1},
        "quality": number(0.9 * kept) | {"metric": "accuracy", "n": 100, "split": "test"},
        "kept": number(kept),
        "size_mb": 10.0,
    }


MADE = {
    "command": "python benchmarks/prune.py table:0,1",
    "made": "2026-01-01T00:00:00+00:00",
    "seeds": [0, 1],
    "environment": {"commit": "abc", "cpu": "one", "cores": 2, "python": "3.11", "versions": {}},
}


def test_speed_and_quality_are_told_beside_students_and_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(prune, "ROOT", tmp_path)
    runs = [run("uncut", "", 0, 1.0, 1.0), run("uncut", "", 1, 1.0, 1.0)]
    for seed, more in ((0, 0.0), (1, 0.02)):
        runs += [
            run("layers, distilled", "3 blocks", seed, 2.0, 0.96),
            run("fisher", "2.4x", seed, 2.2, 0.975 + more),
            run("fisher", "1.3x", seed, 1.5, 1.0),
            run("gates, distilled", "3.6x", seed, 2.9, 0.97),
            run("theseus, distilled", "3 blocks", seed, 2.5, 0.99),
        ]
    wanted = [
        {"claim": "98 % at 2x", "of": None, "speedup": 2.0, "kept": 0.98},
        {"claim": "96 % at 3x", "of": "gates, distilled", "speedup": 3.0, "kept": 0.96},
    ]
    why = {"seed": 0, "method": "gates, distilled", "asked": "9x", "why": "too fast. Ask for less."}
    found = MADE | {"what": "SST-2", "n": 100, "runs": runs, "refused": [why], "wanted": wanted}
    text = prune.by_speed(found, "Speed", "picture.svg")
    first = "of the first seed 97.5% (96.5% to 98.5%) at 2.20x (2.19 to 2.21)"
    unsure = "the interval of what is kept reaches below. The best of 2 that are so fast, by test, with 2 seed(s)."
    assert f"98 % at 2x. Measured: **98.5%** (fisher, 2.4x; {first}), holds; {unsure}" in text
    assert "96 % at 3x. Measured: none is so fast, does not hold." in text
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert rows[0].startswith(
        "| fisher | 1.3x | 1.50x | 1.50x (1.49 to 1.51) | 100.0% | 100.0% (99.0% to 101.0%) | 98.0% |"
    )
    assert [row.split(" | ")[1] for row in rows[1:]] == ["3 blocks", "2.4x", "3 blocks", "3.6x", "9x"]
    assert "refused, seed 0: too fast" in rows[-1]
    drawn = (tmp_path / "docs" / "picture.svg").read_text(encoding="utf-8")
    assert "fisher 2.4x" in drawn and "not in the picture" not in text
    runs[4]["kept"] = number(0.6)
    text = prune.by_speed(found, "Speed", "picture.svg")
    assert "Kept less than 90%, and is not in the picture: fisher, 1.3x." in text
    assert "fisher 1.3x" in drawn and "fisher 1.3x" not in (tmp_path / "docs" / "picture.svg").read_text("utf-8")


def test_attention_and_claims_are_told() -> None:
    memory = {"value": 200.0, "conditions": {"model_mb": 90.0}}
    each = {"quality": number(0.95), "kept": number(0.98), "p50_ms": 3.0, "speedup": number(1.5), "memory_mb": memory}
    runs = [{"seed": 0, "attention": "local", "tokens": tokens} | each for tokens in (128, 2048)]
    runs[0] |= {"at_once": number(0.91), "ahead": number(0.04)}
    about = {"what": "Articles", "n": 300, "learnt_on": 256, "longer": {"128": 0.9, "2048": 0.01}}
    text = prune.attention(MADE | about | {"runs": runs})
    start, end = "0.950 | 98.0% | 98.0% (97.0% to 99.0%)", "3.0 | 1.50x (1.49 to 1.51) | 200 (90) |"
    assert f"| local | 128 | {start} | 0.910 | +4.0; +4.0 (+3.0 to +5.0) | {end}" in text
    assert f"| local | 2,048 | {start} |  |  | {end}" in text
    assert "cut 90% at 128, 1% at 2,048." in text
    claim = {"claim": "c", "source": "s", "setting": "t", "difference": number(0.02) | {"n": 9}, "verdict": "holds"}
    heads = {"claim": "h", "source": "s", "setting": "t", "speedup": number(1.1), "at_32": 1.15, "verdict": "holds"}
    text = _words.ledger(MADE | {"what": "w", "rows": [claim], "heads": heads, "speed": heads | {"claim": "f"}})
    assert "| f | s | t | 1.10x (1.09 to 1.11) | holds |" in text
    assert "| c | s | t | +2.0 (+1.0 to +3.0) | holds |" in text
    assert "| h | s | t | 1.10x (1.09 to 1.11), 1.15x in batches of 32 | holds |" in text


def tuning(way: str, task: str, seed: int, share: float, kept: float) -> dict[str, Any]:
    return {
        "seed": seed,
        "task": task,
        "way": way,
        "method": f"tune.{way.partition(',')[0]}",
        "quality": number(0.9 * kept) | {"metric": "accuracy", "n": 100, "split": "test"},
        "trained": {"delta": int(1000 * share), "head": 7, "base": 1000, "share": share},
        "bytes": 2_000_000,
        "seconds": 30.0,
        "memory_mb": 700.0,
        "before_mb": 300.0,
        "kept": number(kept) if task != "c" else None,
    }


def test_tunings_are_told_beside_their_marks() -> None:
    runs = []
    for seed, more in ((0, 0.0), (1, 0.02)):
        for task in ("a", "b", "c"):
            runs += [tuning("full", task, seed, 1.0, 1.0), tuning("bitfit", task, seed, 0.001, 0.96 + more)]
            runs += [tuning("adapter", task, seed, 0.02, 0.98)]
        runs += [tuning("lora", "a", seed, 0.001, 1.5)]
    wanted = [
        {"claim": "few keep 97 %", "share": 0.005, "of": "", "kept": 0.97},
        {"claim": "adapters keep 99 %", "share": 1.0, "of": "adapter", "kept": 0.99},
        {"claim": "prefixes", "share": 1.0, "of": "prefix", "kept": 0.99},
    ]
    found = MADE | {"what": "Rows", "runs": runs, "wanted": wanted}
    text = tune.tuned(found, "Tuning")
    assert "\n\nCounted again.\n\nScores on test" in tune.tuned(found | {"counted": "Counted again."}, "Tuning")
    assert "few keep 97 %. Measured: **97.0%** (bitfit), holds." in text  # lora was tried on one task alone
    assert "adapters keep 99 %. Measured: **98.0%** (adapter), does not hold." in text
    assert "prefixes. Measured: none trains so few, does not hold." in text
    cells = "97.0% (96.0% to 98.0%) | 96.0% (95.0% to 97.0%) | 0.10% | 1 | 7 | 2.00 | 30 | 700 |"
    assert f"| bitfit | 3 | {cells}" in text
    assert "| lora | 1.350 (1.340 to 1.360) |  |  |" in text


def test_the_cache_and_bundles_are_told() -> None:
    ratios = {"faster": number(2.0), "than_full": number(4.0), "difference": number(0.0) | {"n": 9}}
    seconds = {"cache": [1.0], "first": [3.0], "off": [2.0], "full": [4.0]}
    each = {"model": "M", "blocks": 9, "rows": 400, "seconds": seconds, "accuracy": {"auto": [0.9], "off": [0.9]}}
    text = tune.cached(MADE | {"what": "w", "runs": [each | ratios], "wanted": 3.0})
    assert "**2.00x** against the same without the cache, does not hold; **4.00x** against full tuning, holds." in text
    assert "| M | 9 | 400 | 4.00 | 2.00 | 3.00 | 1.00 | 2.00x (1.99 to 2.01) |" in text
    memory = {"bundle": {"mb": 250.0}, "folder": {"mb": 200.0}, "times": 1.25}
    pairs = ("bundle, mixed / a folder, one task", "bundle, mixed / bundle, one task")
    found = {
        "what": "w",
        "memory": memory,
        "size_mb": {"bundle": 95.0, "folders": 900.0},
        "tasks": [{"grafts": ["adapter", "norms"], "labels": 2}],
        "milliseconds": {"bundle, mixed": {"p50_ms": 9.0, "p95_ms": 10.0}},
        "times": {pairs[0]: number(1.3), pairs[1]: number(1.1)},
        "apart": {"bundle and folders": 1e-6, "bundle and PEFT": 2e-6},
        "threads": 2,
        "calls": 100,
        "wanted": {"memory": 1.3, "time": 1.25},
    }
    text = tune.bundled(MADE | found)
    assert "**1.25x** (250 MB against 200 MB, the process included), holds." in text
    assert (
        "**1.30x** against a folder of its own, does not hold; **1.10x** against one task in the bundle, holds." in text
    )
    assert "adapter + norms" in text and "| bundle, mixed | 9.0 | 10.0 |" in text


def test_what_is_missing_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(evidence, "ROOT", tmp_path)
    evidence.main()
    assert (tmp_path / "docs" / "evidence.md").read_text(encoding="utf-8") == evidence.HEAD


def test_what_is_said_of_rivals() -> None:
    def row(texts: str, times: float, lost: float) -> dict[str, Any]:
        faster = {"value": times, "low": times - 0.1, "high": times + 0.1}
        each = {
            "ms": {"smidgen": 2.0, "a": 2.0 * times, "b": 9.0},
            "best_other": "a",
            "times_as_fast": faster,
            "way": "w",
        }
        return {
            "model": "m",
            "texts": texts,
            "batch": 1,
            "failed": {"c": "too new"},
            "rounds": 3,
            "points_lost": lost,
        } | each

    found = MADE | {"what": "w", "threads": 2, "n": {"SST-2": {}}}
    text = runtime.speed(found | {"rows": [row("SST-2", 1.3, 0.1), row("BBC", 0.9, 0.4)]})
    assert "the least of the rows: **1.30x**, holds" in text and "Measured: **0.90x**, does not hold" in text
    assert "the most: **0.40**, does not hold" in text and "Did not run: m: c (too new)." in text
    assert "| m | SST-2 | 1 | w | 2.00 | a | 2.60 | 1.30x (1.20 to 1.40) | +0.10 |" in text
    assert "of the models measured" not in text
    text = runtime.speed(
        found | {"rows": [row("SST-2", 1.3, 0.1), row("BBC", 1.5, 0), row("SST-2", 2, 0) | {"model": "n"}]}
    )
    assert "Measured: **1.50x**, holds of the models measured, without n." in text
    limit = {"model": "m", "precision": "int8", "batch": 1, "tokens": 24, "gigaops": 100.0, "of_peak": 0.25}
    assert "| m | int8 | 1 | 24 | 100 | 25% |" in runtime.limit(
        found | {"peak_gigaops": {"int8": 400.0}, "rows": [limit]}
    )


def test_the_table_of_engines_is_that_of_the_figures() -> None:
    root = Path(__file__).parent.parent
    rows = json.loads((root / "benchmarks" / "runtime.json").read_text(encoding="utf-8"))["speed"]["rows"]
    page = (root / "docs" / "runtime.md").read_text(encoding="utf-8")
    ways = {(row["model"], row["texts"], row["batch"]): row["way"] for row in rows}
    for model in dict.fromkeys(row["model"] for row in rows):
        found = [
            ways.get((model, texts, n), "not measured")
            for texts in ("SST-2 sentences", "BBC articles")
            for n in (1, 32)
        ]
        short = [way.replace(" int8", "").replace(" bf16", "") for way in found]
        assert f"  | {model} | {' | '.join(short)} |" in page


@pytest.mark.parametrize(
    ("lows", "said"),
    [
        ((1, 1), "holds"),
        ((-2, -2), "does not hold"),
        ((-1, -1), "not resolved"),
        ((1, -1), "holds on a, not resolved on the other"),
        ((-2, -1, -1), "does not hold on a, not resolved on the others"),
        ((1, 1, -1), "holds on a and b, not resolved on the other"),
        ((1, -2, 1, -1, 1), "holds on a, c and e, does not hold on b, not resolved on the other"),
    ],
)
def test_a_claim_holds_where_its_interval_says_so(lows: tuple[int, ...], said: str) -> None:
    found = {name: between(low + 0.1, low + 1.8) for name, low in zip("abcde", lows, strict=False)}
    assert _words.resolved(found, 0) == said


def test_fusions_are_a_tenth_faster_where_the_low_end_is() -> None:
    batches = {"1": {"none": between(1.16, 1.22)}, "32": {"none": between(1.02, 1.21)}}
    text = runtime.fusions(MADE | {"what": "w", "rows": [{"model": "m", "threads": 2, "batches": batches}]})
    assert "**1.11x**, holds on m at batch 1, not resolved on the other." in text


def test_the_bound_of_memory_is_onnx_runtimes() -> None:
    about = {"model": "m", "graph": "static", "size_mb": 23.6, "most_mb": 197.0}
    rows = [about | {"value": 130.0}, about | {"value": 249.0, "engine": "openvino"}]
    text = runtime.memory(MADE | {"what": "w", "rows": rows})
    assert "**Holds**. OpenVINO in bfloat16 goes beyond it in 1 of 1 rows." in text
    assert "| m | static | openvino | 23.6 | 249 | 197 |" in text
    assert "**Holds**. OpenVINO, which needs more, was not measured here." in runtime.memory(
        MADE | {"what": "w", "rows": rows[:1]}
    )
    assert "**Does not hold**" in runtime.memory(MADE | {"what": "w", "rows": [rows[0] | {"value": 198.0}]})


def between(low: float, high: float) -> dict[str, float]:
    return {"value": (low + high) / 2, "low": low, "high": high}


@pytest.mark.parametrize(
    ("points", "times", "said"),
    [
        (between(0.01, 0.03), between(0.9, 1.1), "won"),  # better, and no slower
        (between(-0.01, 0.01), between(1.1, 1.2), "won"),  # faster, and no worse
        (between(0.01, 0.03), between(0.5, 0.6), "better and slower"),
        (between(-0.03, -0.01), between(2, 3), "faster and worse"),
        (between(-0.03, -0.01), between(0.9, 1.1), "lost"),
        (between(-0.01, 0.01), between(0.5, 0.6), "lost"),
        (between(-0.01, 0.01), between(0.9, 1.1), "not resolved"),
    ],
)
def test_two_models_are_judged_by_both_intervals(points: Any, times: Any, said: str) -> None:
    assert budgets.verdict(points, times) == said


def test_what_is_said_of_a_search() -> None:
    model = {"quality": number(0.9), "kept": number(0.96), "ms": 1.0, "speedup": number(60.0)}
    against = [
        {"hand": hand, "points": number(0.02), "times": number(2.0), "verdict": verdict}
        for hand, verdict in (("MiniLM-6", "won"), ("TF-IDF", "better and slower"))
    ]
    run_ = {
        "budget": "middle",
        "asked": 60,
        "winner": "a student",
        "size_mb": 18.0,
        "seconds": 500.0,
        "against": against,
    }
    found = {
        "what": "SST-2",
        "limit": "20m",
        "n": 100,
        "train": 900,
        "unlabeled": 0,
        "teacher": model | {"ms": 60.0},
        "hands": [model | {"name": "MiniLM-6", "chosen": "epoch 3 of 4", "seconds": 400.0}],
        "runs": [model | run_, {"budget": "tight", "asked": 300, "reason": "Nothing fits."}],
        "wanted": "better or faster",
    }
    text = search.budgets(MADE | found, "Three budgets")
    assert "**1 won, 1 better and slower**, does not hold" in text and "Not met: tight, 300x: Nothing fits." in text
    assert "Of what is made by hand, beaten so: MiniLM-6 by the winner of middle." in text
    ahead = "Against the best by hand that keeps the budget as well, middle: {}."
    assert ahead.format("+2.0 (+1.0 to +3.0) points ahead of MiniLM-6") in text
    slow = [one | {"speedup": number(59.0)} for one in found["hands"]]  # type: ignore[attr-defined]
    assert ahead.format("none does") in search.budgets(MADE | found | {"hands": slow}, "Three budgets")
    assert "| middle, 60x | TF-IDF | +2.0 (+1.0 to +3.0) | 2.00x (1.99 to 2.01) | better and slower |" in text
    race = {"finalists": 2, "trainings": 41, "seconds": 200.0, "of_the_time": 0.19, "best": "CNN", "place": 2}
    race |= {"behind_on_dev": 0.002, "behind": number(0.004)}
    full = {"seconds": 1000.0, "best": "3 blocks", "dev": 0.9, "test": 0.89}
    runs = [{"seed": 0, "whole": full, "races": [race], "candidates": {"CNN": {"dev": 0.9, "seconds": 30.0}}}]
    marks = {"behind": 0.005, "of_the_time": 0.2}
    text = search.halving(MADE | {"what": "SST-2", "runs": runs, "wanted": marks}, "Halving")
    assert "## Halving" in text and "1 candidates: SST-2" in text
    assert "**0.4** points behind on test, holds; **19%** of the time, holds." in text
    pair = {"small": "CNN", "of": "MPNet", "share": 0.99, "passed": 0.42, "mean_ms": 9.0, "size_mb": 120.0} | model
    pair |= {"dev": {"passed": 0.4}}
    pairs = [pair | {"guard": 0.95, "speedup": number(times)} for times in (7.0, 6.0)]
    refused = [{"small": "CNN", "of": "T", "share": 0.99, "guard": 0.95, "why": "the large model does not keep it"}]
    told = {"what": "w", "n": 9, "dev": 8, "alone": {}, "refused": refused, "wanted": {"kept": 0.99, "speedup": 5.0}}
    text = search.cascade(MADE | told | {"runs": pairs, "claimed": 1})
    assert "**96.0%** kept (95.0% to 97.0%), does not hold; **6.0x**, holds." in text
    assert "| **CNN first** | 99.0% of MPNet, in 95% of draws | 40% | 42% |" in text
    ms = {who: {"p50": 1.0, "p95": 2.0} for who in ("smidgen", "outside")}
    one = {
        "folder": "f",
        "ms": ms,
        "over": {"p50": number(1.02), "p95": number(0.93)},
        "tokenizer_ms": {"smidgen": 0.02, "outside": 0.0625},
        "bytes": {"smidgen": 1000, "outside": 1000},
        "different": 1,
    }
    far = one | {"folder": "g", "over": {"p50": number(1.08), "p95": number(1.25)}, "different": 0}
    told = MADE | {"what": "w", "n": 9, "calls": 99, "wanted": "the same"}
    text = search.outside(told | {"runs": [one]})
    assert "| 0.020 | 0.062 | 1,000 | 1,000 | 1 |" in text
    assert "p95 **7.0%** apart at most for 1 of 1, holds; the tokenizer alone takes smidgen 0.020 to 0.020 ms" in text
    assert "**0** bytes apart at most, holds; **1** labels differ, does not hold." in text
    assert "## A student's numbers" in text and "f is a student of `distil.py`, no winner of a search." in text
    text = search.outside(told | {"runs": [one | {"folder": "a budget's winner"}, far]})
    assert "## A winner's numbers" in text and "g is a student" in text and "winner is a student" not in text
    assert "p95 **7.0%** apart at most for 1 of 2 (g 25.0%), does not hold" in text
