"""What runtime.json says: precision, graphs and engines."""

from __future__ import annotations

import re
from collections import Counter
from functools import partial
from typing import Any

from pages._words import foot, holds, interval, points, resolved, times


def speed(found: dict[str, Any], title: str = "") -> str:
    """A row for each model, kind of text and batch; then what every contestant took."""
    rows, every = [], []
    names = list(dict.fromkeys(name for r in found["rows"] for name in r["ms"]))
    for r in found["rows"]:
        at = f"{r['model']} | {r['texts']} | {r['batch']}"
        rows.append(
            f"| {at} | {r['way']} | {r['ms']['smidgen']:.2f} | {r['best_other']} | {r['ms'][r['best_other']]:.2f} | "
            f"{_faster(r)} | {r['points_lost']:+.2f} |"
        )
        every.append(f"| {at} | {' | '.join(_ms(r['ms'].get(name)) for name in names)} |")
    short, long = ([r for r in found["rows"] if r["texts"].startswith(kind)] for kind in ("SST", "BBC"))
    least, slowest = (min(r["times_as_fast"]["value"] for r in part) for part in (short, long))
    lost = max(r["points_lost"] for r in found["rows"])
    absent = " and ".join(dict.fromkeys(r["model"] for r in short if r["model"] not in {one["model"] for one in long}))
    where = f" of the models measured, without {absent}" if absent else ""
    failed = {f"{r['model']}: {name} ({why})" for r in found["rows"] for name, why in r["failed"].items()}
    return "\n".join(
        [
            f"## Text in to label out, against what others run{title}",
            "",
            f"Claim: on short texts at least 1.2x as fast as the best of the others. Measured, the least of the rows: **{least:.2f}x**, "
            f"{holds(least >= 1.2)}.\n",
            f"Claim: never slower than the best on long texts. Measured: **{slowest:.2f}x**, {holds(slowest >= 1)}{where}.\n",
            f"Claim: at most 0.3 points of accuracy lost against float32. Measured, the most: **{lost:.2f}**, {holds(lost <= 0.3)}.",
            "",
            f"{found['what']}; {found['threads']} threads; every rival has the stock tokenizer; ms are medians of rounds. Articles are cut at 512 tokens.",
            "",
            "| model | texts | batch | smidgen's way | ms | the best other | its ms | as fast | points lost |",
            "|---|---|--:|---|--:|---|--:|--:|--:|",
            *rows,
            "",
            "Milliseconds of a call, medians:",
            "",
            f"| model | texts | batch | {' | '.join(names)} |",
            f"|---|---|--:|{'--:|' * len(names)}",
            *every,
            "",
            *([f"Did not run: {'; '.join(sorted(failed))}.", ""] if failed else []),
            foot(found),
        ]
    )


def limit(found: dict[str, Any]) -> str:
    peaks = ", ".join(f"{kind} {value:,.0f}" for kind, value in found["peak_gigaops"].items())
    rows = [
        f"| {r['model']} | {r['precision']} | {r['batch']} | {r['tokens']} | {r['gigaops']:.0f} | {r['of_peak']:.0%} |"
        for r in found["rows"]
    ]
    return "\n".join(
        [
            "## How far from the processor's limit",
            "",
            f"{found['what']}. Peaks, thousand million operations a second: {peaks}. Not covered: static int8, and OpenVINO in bfloat16.",
            "",
            "| model | precision | batch | tokens | 10^9 operations a second | of the peak |",
            "|---|---|--:|--:|--:|--:|",
            *rows,
            "",
            foot(found),
        ]
    )


def fusions(found: dict[str, Any]) -> str:
    rows = []
    fused = {f"{r['model']} at batch {n}": r["batches"][n]["none"] for r in found["rows"] for n in r["batches"]}
    least = min(one["value"] for one in fused.values())
    for r in found["rows"]:
        for name in r["batches"]["1"]:
            cells = " | ".join(times(r["batches"][batch][name]) for batch in ("1", "32"))
            rows.append(f"| {r['model']} | {name} | {cells} |")
    return "\n".join(
        [
            "## What each fusion brings",
            "",
            f"Claim: fusing makes a graph a tenth faster. Measured, all fusions against none, the least of the rows: **{least:.2f}x**, "
            f"{resolved(fused, 1.1)}.",
            "",
            f"{found['what']}. {found['rows'][0]['threads']} threads.",
            "",
            "| model | graph | batch 1 | batch 32 |",
            "|---|---|--:|--:|",
            *rows,
            "",
            foot(found),
        ]
    )


def strings(found: dict[str, Any]) -> str:
    wrong = sum(one["different"] for one in found["ids"].values())
    ids = [f"| {name} | {one['strings']:,} | {one['different']} |" for name, one in found["ids"].items()]
    speed = [f"| {name} | {times(one['times'])} |" for name, one in found["time"].items()]
    least = min(one["times"]["value"] for one in found["time"].values())
    return "\n".join(
        [
            "## Token ids, and the smallest students",
            "",
            f"Claim: ids equal the stock tokenizer's. Measured: **{wrong}** differ, {holds(wrong == 0)}.\n",
            f"Claim: text in to label out at least 2x as fast as the stock tokenizer and ONNX Runtime. Measured, the least: **{least:.2f}x**, "
            f"{holds(least >= 2)}. {found['what']}.",
            "",
            "| tokenizer | strings | different |",
            "|---|--:|--:|",
            *ids,
            "",
            "| student | times as fast |",
            "|---|--:|",
            *speed,
            "",
            foot(found),
        ]
    )


def memory(found: dict[str, Any], title: str = "") -> str:
    rows = [
        f"| {r['model']} | {r['graph']} | {_engine(r)} | {r['size_mb']:.1f} | {r['value']:.0f} | {r['most_mb']:.0f} |"
        for r in found["rows"]
    ]
    own, others = ([r for r in found["rows"] if (_engine(r) == "onnxruntime") is ours] for ours in (True, False))
    kept, beyond = ([r["value"] <= r["most_mb"] for r in part] for part in (own, others))
    elsewhere = (
        f"OpenVINO in bfloat16 goes beyond it in {beyond.count(False)} of {len(beyond)} rows"
        if others
        else "OpenVINO, which needs more, was not measured here"
    )
    return "\n".join(
        [
            f"## Memory of the runtime{title}",
            "",
            f"Claim: with ONNX Runtime at most twice the size of what is deployed and 150 MB. **{holds(all(kept)).capitalize()}**. "
            f"{elsewhere}. {found['what']}, in MB.",
            "",
            "| model | graph | engine | size | peak | at most |",
            "|---|---|---|--:|--:|--:|",
            *rows,
            "",
            foot(found),
        ]
    )


def training(found: dict[str, Any], title: str = "") -> str:
    rows = [
        f"| {r['seed']} | {r['precision']} | {interval(r['quality'])} | {r['seconds']:.0f} |" for r in found["runs"]
    ]
    steps = "; ".join(f"{one['model']} {times(one['faster'])}" for one in found["steps"])
    gained = found["gained"]
    word = "does not hold" if gained["high"] < 0 else "holds" if gained["low"] > -0.005 else "not resolved"
    return "\n".join(
        [
            f"## Training in 16 bits{title}",
            "",
            f"Claim: mixed precision trains to the same quality (half a point at most below). Measured, points ahead: **{points(gained)}**, {word}. "
            f"Steps in bfloat16 are so many times as fast as in float32: {steps}. {found['what']}, threads: {found['threads']}.",
            "",
            "| seed | precision | test accuracy | seconds |",
            "|--:|---|--:|--:|",
            *rows,
            "",
            foot(found),
        ]
    )


def calibrators(found: dict[str, Any]) -> str:
    rows = [
        f"| {r['task']} | {r['graph']} | {r['quality']['value']:.3f} | {r['lost']['value']:+.1f} ({r['lost']['low']:+.1f} to "
        f"{r['lost']['high']:+.1f}) | {r['same']:.1%} | {times(r['speedup'])} | {times(r['beside_dynamic'])} | {r['size_mb']:.1f} |"
        for r in found["runs"]
    ]
    return "\n".join(
        [
            "## int8 by calibrator and task",
            "",
            *_claims(found["claims"]),
            f"Claim: static int8 is faster than int8 whose ranges are measured in each call. {_beside_dynamic(found['runs'])}.",
            "",
            f"Where an encoder breaks under int8: {_broken(found['runs'])}.",
            "",
            f"{found['what']}; {len(found['seeds'])} seed(s). Lost are points against the float32 graph on the same rows of test.",
            "",
            "| task | graph | score | lost | same decisions | times as fast as float32 | as dynamic | MB |",
            "|---|---|--:|--:|--:|--:|--:|--:|",
            *rows,
            "",
            foot(found),
        ]
    )


def _claims(found: list[dict[str, Any]]) -> list[str]:
    """A row for each claim, and on which tasks it holds."""
    rows = []
    for claim in dict.fromkeys(each["claim"] for each in found):
        tasks = [each for each in found if each["claim"] == claim]
        word = resolved({t["task"]: t["points"] for t in tasks}, 0)
        each = "; ".join(f"{t['task']} {_points(t['points'])}" for t in tasks)
        rows.append(f"| {claim} | {tasks[0]['better']}, against {tasks[0]['than']} | {each} | {word} |")
    return ["| claim | graphs | points ahead on test | |", "|---|---|---|---|", *rows, ""]


def _beside_dynamic(runs: list[dict[str, Any]], graph: str = "static, mse") -> str:
    """What ranges that are known beforehand bring, and what is to be said of it."""
    tasks = [run for run in runs if run["graph"] == graph]
    word = resolved({t["task"]: t["beside_dynamic"] for t in tasks}, 1)
    told = "; ".join(f"{t['task']} {times(t['beside_dynamic'])}" for t in tasks)
    return f"{graph}: {told}, {word}"


def _broken(runs: list[dict[str, Any]]) -> str:
    """The parts that the limit on dev gave back to float32, by kind, over all graphs and tasks."""
    parts = [name for run in runs for name in run["found"].get("float", {}).values()]
    kinds = Counter(re.sub(r".*layer\.\d+\.", "", name) for name in parts)
    limited = sum("limit" in run["graph"] for run in runs)
    told = ", ".join(f"{kind} ({count})" for kind, count in kinds.most_common())
    return f"of {limited} graphs with a limit went back {told}"


def _points(number: dict[str, Any]) -> str:
    return f"{number['value']:+.1f} ({number['low']:+.1f} to {number['high']:+.1f})"


def _engine(run: dict[str, Any]) -> str:
    return str(run.get("engine", "onnxruntime"))


def _faster(run: dict[str, Any]) -> str:
    return times(run["times_as_fast"]) if run["rounds"] > 1 else f"{run['times_as_fast']['value']:.2f}x (one round)"


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


SECTIONS = {
    "speed": speed,
    "speed, MPNet": partial(speed, title=": a base-size model, on a processor with matrix units"),
    "limit": limit,
    "fusions": fusions,
    "strings": strings,
    "memory": memory,
    "memory, MiniLM-6, MPNet": partial(memory, title=", by engine"),
    "training": training,
    "training, GPU": partial(training, title=" on a GPU"),
    "calibrators": calibrators,
}
