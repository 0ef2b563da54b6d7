"""What prune.json says: what is left of a model, and its speed."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from common import ROOT

from pages._words import foot, holds, interval, ledger, mean, over, points, shared, times
from smidgen.measure.entries import entry
from smidgen.picture import arranged, drawn, point_of

SECONDS, POINTS = 180, 1.5  # that prune.fisher may take, and lose
TIMED = "The first seed's time has the measuring of the table of milliseconds in it."


def fisher(found: dict[str, Any]) -> str:
    rows = []
    for r in found["runs"]:
        speed, f = r["speedup"], r["found"]
        rows.append(
            f"| {r['seed']} | {interval(r['teacher'])} | {interval(r['cut'])} | {r['seconds']:.0f} | "
            f"{times(speed)} | {f['foretold']:.2f} | {f['measured']:.2f} |"
        )
    kept = [
        r["seconds"] <= SECONDS
        and r["speedup"]["value"] >= found["asked"]
        and 100 * (r["teacher"]["value"] - r["cut"]["value"]) <= POINTS
        for r in found["runs"]
    ]
    return "\n".join(
        [
            "## Pruned in minutes",
            "",
            f"Wanted: {found['wanted']}. Measured: kept by {sum(kept)} of {len(kept)} seeds, on {found['environment']['cores']} "
            f"{'cores' if found['environment']['cores'] > 1 else 'core'}. {found['what']}, n = {found['n']}. Asked for {found['asked']}x. Lost: {points(found['lost'])} points. "
            f"{found.get('how', TIMED)}",
            "",
            _costs(found["runs"][0]["found"]["costs"]),
            "",
            "| seed | teacher | cut | seconds to cut | times as fast | ms by the table | ms measured |",
            "|--:|--:|--:|--:|--:|--:|--:|",
            *rows,
            "",
            foot(found),
        ]
    )


def _costs(table: dict[str, Any]) -> str:
    """The table that steered the cut, in a sentence."""
    heads, units = (
        ", ".join(f"{count:,} {ms:.3f}" for count, ms in table[row] if count) for row in ("heads", "widths")
    )
    return (
        f"That table, ms of a block: an attention of so many heads {heads}; a feed-forward of so many units {units}; "
        f"what no cut inside a block changes, {table['fixed']:.3f} in all."
    )


def by_speed(found: dict[str, Any], title: str, file: str) -> str:
    """The table of what was cut, the fastest last, and its picture, which is written too."""
    groups = [g for g in _by_way(found["runs"]) if g[0]["method"] != "uncut"]
    groups.sort(key=lambda group: over(group, "speedup"))
    uncut = [run for run in found["runs"] if run["method"] == "uncut"]
    students = [(1.0, 1.0), *((over(g, "speedup"), over(g, "kept")) for g in groups if g[0]["method"] == STUDENTS)]
    rows = []
    for group in groups:
        first, speed = group[0], over(group, "speedup")
        beside = "" if first["method"] == STUDENTS or speed > students[-1][0] else f"{_between(students, speed):.1%}"
        rows.append(
            f"| {first['method']} | {first['asked']} | {speed:.2f}x | {times(first['speedup'])} | {over(group, 'kept'):.1%} | "
            f"{shared(first['kept'])} | {beside if len(students) > 1 else ''} | {first['size_mb']:.1f} | {len(group)} |"
        )
    for r in found["refused"]:
        rows.append(
            f"| {r['method']} | {r['asked']} | refused, seed {r['seed']}: {r['why'].partition('. ')[0]} | | | | | | |"
        )
    (ROOT / "docs" / file).write_text(_picture(_as_report(found), title), encoding="utf-8")
    return "\n".join(
        [
            f"## {title}",
            "",
            *(_mark(groups, mark) for mark in found["wanted"]),
            "",
            f"{found['what']}. Uncut: {interval(uncut[0]['quality'])}, {uncut[0]['latency']['p50_ms']:.2f} ms, "
            f"{uncut[0]['size_mb']:.1f} MB; n = {found['n']}. Means are of seeds, intervals of the first; 'a student' is what distilled "
            f"students of fewer blocks keep at that speed, on straight lines between them.{found.get('how', '')}",
            "",
            f"![quality against latency, seed {found['runs'][0]['seed']}]({file})",
            *_undrawn(found),
            "",
            "| method | asked | times as fast | interval | kept | interval | a student | MB | seeds |",
            "|---|---|--:|--:|--:|--:|--:|--:|--:|",
            *rows,
            "",
            foot(found),
        ]
    )


STUDENTS = "layers, distilled"
DRAWN = 0.9  # of what the uncut model scores: what is below would press all others together


SMALLER = "a smaller model, distilled"
BESIDE = (STUDENTS, SMALLER)
NOT_PRUNED = (
    "uncut",
    STUDENTS,
    SMALLER,
    "theseus, distilled",
    "theseus, narrow feed-forwards, distilled",
    "lowrank, distilled",
)


def _mark(groups: list[list[dict[str, Any]]], mark: dict[str, Any]) -> str:
    """The best of the groups that are fast enough, by their means over seeds, against what it is to keep."""
    fit = [group for group in groups if over(group, "speedup") >= mark["speedup"] and _counts(group, mark)]
    best = max(fit, key=lambda group: over(group, "kept"), default=None)
    if best is None:
        return f"Claim: {mark['claim']}. Measured: none is so fast, {holds(False)}.\n"
    first, reached = best[0], over(best, "kept") >= mark["kept"]
    low = [name for name, least in (("kept", mark["kept"]), ("speedup", mark["speedup"])) if first[name]["low"] < least]
    known = {"kept": "what is kept", "speedup": "the speed"}
    unsure = (
        f"; the interval of {' and of '.join(known[name] for name in low)} reaches below" if reached and low else ""
    )
    return (
        f"Claim: {mark['claim']}. Measured: **{over(best, 'kept'):.1%}** ({first['method']}, {first['asked']}; of the first seed "
        f"{shared(first['kept'])} at {times(first['speedup'])}), {holds(reached)}{unsure}. The best of {len(fit)} that are so fast, "
        f"by test, with {len(best)} seed(s).\n"
    )


def _counts(group: list[dict[str, Any]], mark: dict[str, Any]) -> bool:
    return group[0]["method"] == mark["of"] if mark["of"] else group[0]["method"] not in NOT_PRUNED


def _by_way(runs: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Runs of one way with all its seeds."""
    ways = dict.fromkeys((run["method"], run["asked"]) for run in runs)
    return [[run for run in runs if (run["method"], run["asked"]) == way] for way in ways]


def _between(points: list[tuple[float, float]], at: float) -> float:
    return float(np.interp(at, *zip(*sorted(points), strict=True)))


def _undrawn(found: dict[str, Any]) -> list[str]:
    """A line on what the picture has no room for."""
    low = [f"{run['method']}, {run['asked']}" for run in _first_seed(found) if run["kept"]["value"] < DRAWN]
    return ["", f"Kept less than {DRAWN:.0%}, and is not in the picture: {'; '.join(low)}."] if low else []


def _first_seed(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [run for run in found["runs"] if run["seed"] == found["runs"][0]["seed"]]


def _as_report(found: dict[str, Any]) -> dict[str, Any]:
    """The first seed's run in the shape of a report, for its picture; the winner is the best of those twice as fast."""
    seed = found["runs"][0]["seed"]
    runs = [run for run in _first_seed(found) if run["kept"]["value"] >= DRAWN]
    fast = [run for run in runs if run["speedup"]["value"] >= 2 and run["method"] not in NOT_PRUNED]
    best = max(fast, key=lambda run: run["kept"]["value"], default=None)
    shown = {id(run): _shown(run, "winner" if run is best else "trained") for run in runs}
    others = [run for run in runs if run is not best]
    return {
        "schema": 1,
        "created": found["made"],
        "command": found["command"],
        "verdict": "met" if best else "not_met",
        "reason": None,
        "budget": dict.fromkeys(("latency", "size_mb", "memory_mb", "quality", "time_limit_s")),
        "task": {"name": "classify", "labels": None, "metric": runs[0]["quality"]["metric"]},
        "model": {"reference": "", "id": ""},
        "seed": seed,
        "teacher": next(shown[id(run)] for run in others if run["method"] == "uncut"),
        "winner": shown[id(best)] if best else None,
        "candidates": [shown[id(run)] for run in others if run["method"] not in ("uncut", *BESIDE)],
        "baselines": [shown[id(run)] for run in others if run["method"] in BESIDE],
        "data": dict.fromkeys(("train", "dev", "test", "unlabeled")) | {"warnings": []},
        "environment": found["environment"],
        "timing": {"seconds": 0, "stages": []},
        "notes": [],
    }


def _picture(report: dict[str, Any], title: str) -> str:
    """By the median, which speeds are of too."""
    told = [("winner", report["winner"]), ("teacher", report["teacher"])]
    told += [(role, each) for role in ("candidate", "baseline") for each in report[f"{role}s"]]
    largest = max(each["numbers"]["size_mb"] for _, each in told if each)
    points = [point_of(report, each, role, largest, which="p50") for role, each in told if each]
    metric = report["task"]["metric"]
    return drawn(*arranged([point for point in points if point], None, None, metric, metric, "p50"), title)


def _shown(run: dict[str, Any], status: str) -> dict[str, Any]:
    name = f"{run['method']} {run['asked']}".strip().replace(", distilled", " +")
    shown = entry(name, status)
    shown["numbers"] |= {name: run[name] for name in ("quality", "latency", "size_mb", "speedup")}
    shown["numbers"]["quality_kept"] = run["kept"] | {"n": run["quality"]["n"]}
    return shown


def attention(found: dict[str, Any]) -> str:
    rows = []
    for kind, tokens in dict.fromkeys((run["attention"], run["tokens"]) for run in found["runs"]):
        group = [run for run in found["runs"] if (run["attention"], run["tokens"]) == (kind, tokens)]
        first, memory = group[0], group[0]["memory_mb"]
        rows.append(
            f"| {kind} | {tokens:,} | {mean([run['quality']['value'] for run in group], '{:.3f}')} | {over(group, 'kept'):.1%} | "
            f"{shared(first['kept'])} | {_beside_at_once(group)} | {first['p50_ms']:.1f} | {times(first['speedup'])} | {memory['value']:.0f} "
            f"({memory['conditions']['model_mb']:.0f}) |"
        )
    cut = ", ".join(f"{share:.0%} at {int(length):,}" for length, share in found["longer"].items())
    return "\n".join(
        [
            "## Attention of other kinds",
            "",
            f"{found['what']}. Learnt on articles cut at {found['learnt_on']} tokens; of the test articles are cut {cut}. n = {found['n']}, "
            f"{len(found['seeds'])} seed(s); intervals are of the first.{found.get('how', '')}",
            "",
            *(
                f"Refused with seed {one['seed']}, {one['attention']}: {one['why']}\n"
                for one in found.get("refused", ())
            ),
            "| attention | tokens | accuracy | kept | interval | put in at once, accuracy | points ahead of that | ms | times as fast | "
            "MB of the process (of the model) |",
            "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
            *rows,
            "",
            foot(found),
        ]
    )


def _beside_at_once(group: list[dict[str, Any]]) -> str:
    there = [run for run in group if "at_once" in run]
    if not there:
        return " | "
    by = mean([100 * run["ahead"]["value"] for run in there], "{:+.1f}")
    return f"{mean([run['at_once']['value'] for run in there], '{:.3f}')} | {by}; {points(there[0]['ahead'])}"


SECTIONS = {
    "fisher": fisher,
    "table": partial(by_speed, title="Quality against speed: MiniLM-6", file="pruning.svg"),
    "table, AMX": partial(
        by_speed, title="Quality against speed: MiniLM-6, on a processor with matrix units", file="pruning-amx.svg"
    ),
    "table, GPU": partial(
        by_speed, title="Quality against speed: MiniLM-6, trained on a GPU beside other work", file="pruning-gpu.svg"
    ),
    "base": partial(by_speed, title="Quality against speed: a base-size model", file="pruning-base.svg"),
    "base, AMX": partial(
        by_speed,
        title="Quality against speed: a base-size model, on a processor with matrix units",
        file="pruning-base-amx.svg",
    ),
    "ledger": partial(ledger, title="The ledger of claims about pruning"),
    "attention": attention,
}
