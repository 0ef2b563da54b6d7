"""Write docs/evidence.md from the result files, so that no number in it is typed by hand."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import numpy as np
from common import ROOT

from smidgen.measure.entries import entry
from smidgen.picture import picture


def main() -> None:
    parts = [HEAD]
    for file, sections in FILES.items():
        path = ROOT / "benchmarks" / file
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        parts += [write(found[name]) for name, write in sections.items() if name in found]
    (ROOT / "docs" / "evidence.md").write_text("\n".join(parts), encoding="utf-8")


HEAD = """# Evidence

Written by `python benchmarks/evidence.py` from `core.json`, `prune.json`, `tune.json` and `distil.json` in `benchmarks/`, which
`make bench-core`, `make bench-prune`, `make bench-tune` and `make bench-distil` make. SST-2 sentences and MiniLM-6 (6 blocks x 384) from a package unless said; teachers are fine-tuned by the
project. Intervals are 95 %. Times are from text in to label out, interleaved in one run; compare ratios, not milliseconds.
"""


def training(found: dict[str, Any]) -> str:
    rows = [
        f"| {r['trainer']} | {r['seed']} | {r['examples_per_s']:.0f} | {_interval(r['test'])} |" for r in found["runs"]
    ]
    return "\n".join(
        [
            "## Training against the stock Trainer",
            "",
            f"Claim: at least 2x the examples a second, same quality. Measured: **{found['ratio']['mean']:.2f}x**, "
            f"{_holds(found['ratio']['mean'] >= 2)}. {found['what'].capitalize()}.",
            "",
            "| trainer | seed | examples/s | test accuracy |",
            "|---|--:|--:|--:|",
            *rows,
            "",
            _made(found),
        ]
    )


def runtime(found: dict[str, Any]) -> str:
    rows = []
    for name, m in found["models"].items():
        one, many = m["times_as_fast_as_smidgen_int8_batch_1"], m["times_as_fast_as_smidgen_int8_batch_32"]
        rows.append(
            f"| {name} | {m['p50_ms']:.2f} | {m['p95_ms']:.2f} | {one['value']:.2f} ({one['low']:.2f} to "
            f"{one['high']:.2f}) | {m['texts_per_s_at_32']:.0f} | {many:.2f} | {m['test_accuracy']:.4f} |"
        )
    hand = {n: m for n, m in found["models"].items() if n.startswith("by hand")}
    first = all(m["times_as_fast_as_smidgen_int8_batch_1"]["low"] <= 1 for m in hand.values())
    clear = all(m["times_as_fast_as_smidgen_int8_batch_1"]["value"] <= 1 for m in hand.values())
    many = all(m["times_as_fast_as_smidgen_int8_batch_32"] <= 1 for m in hand.values())
    word = "holds" if clear else "not resolved (the interval has 1 in it)" if first else "does not hold"
    return "\n".join(
        [
            "## The runtime against ONNX Runtime by hand",
            "",
            f"Claim: smidgen's int8 is at least as fast as dynamic int8 driven by hand. At batch 1: **{word}**; at batch 32: "
            f"{_holds(many)}. Same weights; 'faster' is relative to smidgen int8, 1,000 calls each.",
            "",
            "| model | p50 ms | p95 ms | faster at batch 1 | texts/s at batch 32 | faster at batch 32 | accuracy |",
            "|---|--:|--:|--:|--:|--:|--:|",
            *rows,
            "",
            _made(found),
        ]
    )


def student(found: dict[str, Any]) -> str:
    rows = [
        f"| {r['seed']} | {_interval(r['teacher_test'])} | {_interval(r['student_test'])} | "
        f"{_interval(r['without_distillation'])} | {_share(r['quality_kept'])} | {r['speedup']['value']:.1f}x | "
        f"{r['size_mb']:.1f} |"
        for r in found["runs"]
    ]
    kept, speed = found["quality_kept"], found["speedup"]
    return "\n".join(
        [
            "## A 3-block student",
            "",
            f"Claim: keeps at least 97 % of its teacher's test accuracy at 5x or more of its torch float32 speed. Measured: "
            f"**{kept['mean']:.1%}** kept, {_holds(kept['mean'] >= 0.97)}; **{speed['least']:.1f}x**, "
            f"{_holds(speed['least'] >= 5)}. {len(rows)} seed(s), n = {found['n']}.",
            "",
            "| seed | teacher | student, int8 | same without distillation | kept | speed-up | MB |",
            "|--:|--:|--:|--:|--:|--:|--:|",
            *rows,
            "",
            _made(found),
        ]
    )


def install(found: dict[str, Any]) -> str:
    size, load = found["base_install_mb"]["value"], found["load_and_first_answer_s"]["median"]
    imported = found["import_s"]["median"]
    return "\n".join(
        [
            "## The base install",
            "",
            "| claim | measured | |",
            "|---|--:|---|",
            f"| base install under 250 MB | {size:.0f} MB | {_holds(size < 250)} |",
            f"| `import smidgen` under 1 s, interpreter included | {imported:.2f} s | {_holds(imported < 1)} |",
            f"| loading a winner and its first answer under 2 s | {load:.2f} s | {_holds(load < 2)} |",
            f"| without torch | torch imported: {found['torch_imported']} | {_holds(not found['torch_imported'])} |",
            "",
            _made(found),
        ]
    )


def students(found: dict[str, Any]) -> str:
    rows = []
    for name in dict.fromkeys(run["student"] for run in found["runs"]):
        speed = found["speed"][name]["speedup"]
        ways = {how: [r for r in found["runs"] if (r["student"], r["how"]) == (name, how)] for how in WAYS}
        with_, without = (ways[how] for how in WAYS)
        shares = [r["kept"]["value"] for r in with_]
        gain = sum(a["test"]["value"] - b["test"]["value"] for a, b in zip(with_, without, strict=True)) / len(with_)
        adds = _points(found["adds"][name]) if "adds" in found else f"{100 * gain:+.1f}"
        rows.append(
            f"| {name} | {len(shares)} | {_mean(shares, '{:.1%}')} | {_share(with_[0]['kept'])} | {_mean([r['kept']['value'] for r in without], '{:.1%}')} | "
            f"{adds} | {speed['value']:.0f}x ({speed['low']:.0f} to {speed['high']:.0f}) | "
            f"{with_[0]['size_mb']:.1f} |"
        )
    return "\n".join(
        [
            "## Students of a base-size teacher",
            "",
            f"Wanted: {found['wanted']}. {found['what']}. Teacher: {_interval(found['teacher'])}, n = {found['n']}.",
            "",
            "| student | seeds | kept, mean | interval of the first seed | kept without distillation | distillation adds, points | "
            "times as fast as the teacher | MB |",
            "|---|--:|--:|--:|--:|--:|--:|--:|",
            *rows,
            "",
            _made(found),
        ]
    )


WAYS = ("distilled", "labels alone")


def half_depth(found: dict[str, Any]) -> str:
    rows = [
        f"| {r['seed']} | {r['how']} | {_interval(r['teacher'])} | {_interval(r['test'])} | {_share(r['kept'])} |"
        for r in found["runs"]
    ]
    kept = found["kept"]
    return "\n".join(
        [
            f"## Half the depth: {found['what'].partition(',')[0]}",
            "",
            f"Claim: a half-depth student keeps at least 95 % of its teacher's F1. Measured: **{kept['mean']:.1%}** (least of the seeds "
            f"{kept['least']:.1%}), {_holds(kept['mean'] >= 0.95)}. {found['what']}, n = {found['n']}.",
            "",
            "| seed | student | teacher | student's F1 | kept |",
            "|--:|---|--:|--:|--:|",
            *rows,
            "",
            _made(found),
        ]
    )


def ledger(found: dict[str, Any], title: str = "The ledger of claims") -> str:
    rows = []
    for r in found["rows"]:
        rows.append(f"| {r['claim']} | {r['source']} | {r['setting']} | {_points(r['difference'])} | {r['verdict']} |")
    if "temperature" in found:
        sizes = found["temperature"]
        spread = {way: max(sizes[way]) / min(sizes[way]) for way in ("with", "without")}
        kept = spread["with"] < 2 < spread["without"]
        rows.append(
            f"| {sizes['claim']} | {sizes['source']} | {sizes['setting']} | largest over smallest norm, T = 1 to 8: "
            f"{spread['with']:.1f} with T^2, {spread['without']:.0f} without | {_holds(kept)} |"
        )
    if "speed" in found:
        r = found["speed"]
        rows.append(f"| {r['claim']} | {r['source']} | {r['setting']} | {_times(r['speedup'])} | {r['verdict']} |")
    if "heads" in found:
        r = found["heads"]
        rows.append(
            f"| {r['claim']} | {r['source']} | {r['setting']} | {_times(r['speedup'])}, {r['at_32']:.2f}x in batches of 32 | "
            f"{r['verdict']} |"
        )
    return "\n".join(
        [
            f"## {title}",
            "",
            f"{found['what']}: points of test accuracy by which the claimed way is ahead, n = {found['rows'][0]['difference']['n']}, "
            f"{len(found['seeds'])} seed(s); the interval draws rows and seeds anew.",
            "",
            "| claim | source | our setting | ahead by | |",
            "|---|---|---|--:|---|",
            *rows,
            "",
            _made(found),
        ]
    )


def _points(number: dict[str, Any]) -> str:
    return f"{100 * number['value']:+.1f} ({100 * number['low']:+.1f} to {100 * number['high']:+.1f})"


def fisher(found: dict[str, Any]) -> str:
    rows = []
    for r in found["runs"]:
        speed, f = r["speedup"], r["found"]
        rows.append(
            f"| {r['seed']} | {_interval(r['teacher'])} | {_interval(r['cut'])} | {r['seconds']:.0f} | "
            f"{_times(speed)} | {f['foretold']:.2f} | {f['measured']:.2f} |"
        )
    return "\n".join(
        [
            "## Pruned in minutes",
            "",
            f"Wanted: {found['wanted']}. {found['what']}, n = {found['n']}. Asked for {found['asked']}x. Lost: {_points(found['lost'])} points.",
            "",
            "| seed | teacher | cut | seconds to cut | times as fast | ms foretold | ms measured |",
            "|--:|--:|--:|--:|--:|--:|--:|",
            *rows,
            "",
            _made(found),
        ]
    )


def by_speed(found: dict[str, Any], title: str, file: str) -> str:
    """The table of what was cut, the fastest last, and its picture, which is written too."""
    groups = [g for g in _by_way(found["runs"]) if g[0]["method"] != "uncut"]
    groups.sort(key=lambda group: _over(group, "speedup"))
    uncut = [run for run in found["runs"] if run["method"] == "uncut"]
    students = [(1.0, 1.0), *((_over(g, "speedup"), _over(g, "kept")) for g in groups if g[0]["method"] == STUDENTS)]
    rows = []
    for group in groups:
        first, speed = group[0], _over(group, "speedup")
        beside = "" if first["method"] == STUDENTS or speed > students[-1][0] else f"{_between(students, speed):.1%}"
        rows.append(
            f"| {first['method']} | {first['asked']} | {speed:.2f}x | {_times(first['speedup'])} | {_over(group, 'kept'):.1%} | "
            f"{_share(first['kept'])} | {beside if len(students) > 1 else ''} | {first['size_mb']:.1f} | {len(group)} |"
        )
    for r in found["refused"]:
        rows.append(
            f"| {r['method']} | {r['asked']} | refused, seed {r['seed']}: {r['why'].partition('. ')[0]} | | | | | | |"
        )
    (ROOT / "docs" / file).write_text(picture(_as_report(found)), encoding="utf-8")
    return "\n".join(
        [
            f"## {title}",
            "",
            *(_mark(groups, mark) for mark in found["wanted"]),
            "",
            f"{found['what']}. Uncut: {_interval(uncut[0]['quality'])}, {uncut[0]['latency']['p50_ms']:.2f} ms, "
            f"{uncut[0]['size_mb']:.1f} MB; n = {found['n']}. Means are of seeds, intervals of the first; 'a student' is what distilled "
            "students of fewer blocks keep at that speed, on straight lines between them.",
            "",
            f"![quality against latency, seed {found['runs'][0]['seed']}]({file})",
            "",
            "| method | asked | times as fast | interval | kept | interval | a student | MB | seeds |",
            "|---|---|--:|--:|--:|--:|--:|--:|--:|",
            *rows,
            "",
            _made(found),
        ]
    )


STUDENTS = "layers, distilled"
NOT_PRUNED = ("uncut", STUDENTS, "theseus", "lowrank, distilled")


def _mark(groups: list[list[dict[str, Any]]], mark: dict[str, Any]) -> str:
    """The best of the groups that are fast enough, against what it is to keep."""
    fit = [group for group in groups if _over(group, "speedup") >= mark["speedup"] and _counts(group, mark)]
    best = max(fit, key=lambda group: _over(group, "kept"), default=None)
    said = (
        "none is so fast"
        if best is None
        else f"**{_over(best, 'kept'):.1%}** ({best[0]['method']}, {best[0]['asked']})"
    )
    holds = best is not None and _over(best, "kept") >= mark["kept"]
    return f"Claim: {mark['claim']}. Measured: {said}, {_holds(holds)}.\n"


def _counts(group: list[dict[str, Any]], mark: dict[str, Any]) -> bool:
    return group[0]["method"] == mark["of"] if mark["of"] else group[0]["method"] not in NOT_PRUNED


def _by_way(runs: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Runs of one way with all its seeds."""
    ways = dict.fromkeys((run["method"], run["asked"]) for run in runs)
    return [[run for run in runs if (run["method"], run["asked"]) == way] for way in ways]


def _over(group: list[dict[str, Any]], name: str) -> float:
    """The mean over seeds."""
    return float(np.mean([run[name]["value"] for run in group]))


def _between(points: list[tuple[float, float]], at: float) -> float:
    return float(np.interp(at, *zip(*sorted(points), strict=True)))


def _as_report(found: dict[str, Any]) -> dict[str, Any]:
    """The first seed's run in the shape of a report, for its picture; the winner is the best of those twice as fast."""
    seed = found["runs"][0]["seed"]
    runs = [run for run in found["runs"] if run["seed"] == seed]
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
        "candidates": [shown[id(run)] for run in others if run["method"] not in ("uncut", STUDENTS)],
        "baselines": [shown[id(run)] for run in others if run["method"] == STUDENTS],
        "data": dict.fromkeys(("train", "dev", "test", "unlabeled")) | {"warnings": []},
        "environment": found["environment"],
        "timing": {"seconds": 0, "stages": []},
        "notes": [],
    }


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
            f"| {kind} | {tokens:,} | {_mean([run['quality']['value'] for run in group], '{:.3f}')} | {_over(group, 'kept'):.1%} | "
            f"{_share(first['kept'])} | {first['p50_ms']:.1f} | {_times(first['speedup'])} | {memory['value']:.0f} "
            f"({memory['conditions']['model_mb']:.0f}) |"
        )
    cut = ", ".join(f"{share:.0%} at {int(length):,}" for length, share in found["longer"].items())
    return "\n".join(
        [
            "## Attention of other kinds",
            "",
            f"{found['what']}. Learnt on articles cut at {found['learnt_on']} tokens; of the test articles are cut {cut}. n = {found['n']}, "
            f"{len(found['seeds'])} seed(s); intervals are of the first.",
            "",
            "| attention | tokens | accuracy | kept | interval | ms | times as fast | MB of the process (of the model) |",
            "|---|--:|--:|--:|--:|--:|--:|--:|",
            *rows,
            "",
            _made(found),
        ]
    )


def tuned(found: dict[str, Any], title: str) -> str:
    """What each way keeps on the mean of its tasks, and what it costs; then its scores."""
    groups = {
        name: [r for r in found["runs"] if r["way"] == name] for name in dict.fromkeys(r["way"] for r in found["runs"])
    }
    tasks = list(dict.fromkeys(run["task"] for run in found["runs"]))
    rows, scores = [], []
    for name, group in groups.items():
        first, shares = group[0], _by_seed(group)
        own = list(dict.fromkeys(run["task"] for run in group))
        per = [np.mean([run[key] for run in group]) for key in ("seconds", "memory_mb")]
        rows.append(
            f"| {name} | {len(own)} | {_spread(shares)} | {_share(first['kept']) if first['kept'] else ''} | "
            f"{first['trained']['share']:.2%} | {first['trained']['delta']:,} | {first['trained']['head']:,} | "
            f"{np.mean([run['bytes'] for run in group]) / 1e6:.2f} | {per[0]:.0f} | {per[1]:.0f} |"
        )
        cells = [_scored([run for run in group if run["task"] == task]) for task in tasks]
        scores.append(f"| {name} | {' | '.join(cells)} |")
    sizes = ", ".join(f"{task} {next(r['quality']['n'] for r in found['runs'] if r['task'] == task)}" for task in tasks)
    before = np.mean([run["before_mb"] for run in found["runs"]])
    return "\n".join(
        [
            f"## {title}",
            "",
            *(_tuning_mark(groups, mark) for mark in found["wanted"]),
            "",
            f"{found['what']}; rows of test: {sizes}; {len(found['seeds'])} seed(s). Kept: of full tuning's score, on the same rows of "
            "test; the mean of the tasks, then the least and the most of the seeds. Seconds and peaks are means of the tasks; each run had a "
            f"process of its own, which held {before:.0f} MB before it began. Trained are numbers of the body, or beside it, and of the head.",
            "",
            f"| way | tasks | kept | interval of {tasks[0]}, first seed | trained | numbers | head | MB a task | seconds | peak MB |",
            "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
            *rows,
            "",
            "Scores on test: the mean of the seeds and the interval of the first (accuracy; F1 of entities for wnut17).",
            "",
            f"| way | {' | '.join(tasks)} |",
            f"|---|{'--:|' * len(tasks)}",
            *scores,
            "",
            _made(found),
        ]
    )


def _by_seed(group: list[dict[str, Any]]) -> list[float]:
    """The mean share of the tasks, by seed; where full tuning scored nothing there is none."""
    seeds = dict.fromkeys(run["seed"] for run in group)
    shares = [[run["kept"]["value"] for run in group if run["seed"] == seed and run["kept"]] for seed in seeds]
    return [float(np.mean(each)) for each in shares if each]


def _spread(shares: list[float]) -> str:
    return f"{np.mean(shares):.1%} ({min(shares):.1%} to {max(shares):.1%})" if shares else ""


def _scored(runs: list[dict[str, Any]]) -> str:
    if not runs:
        return ""
    first = runs[0]["quality"]
    return f"{np.mean([run['quality']['value'] for run in runs]):.3f} ({first['low']:.3f} to {first['high']:.3f})"


def _tuning_mark(groups: dict[str, list[dict[str, Any]]], mark: dict[str, Any]) -> str:
    """The best of the ways that have run on all tasks and train few enough numbers."""
    most = max(len({run["task"] for run in group}) for group in groups.values())
    fit = {
        name: float(np.mean(_by_seed(group) or [0.0]))
        for name, group in groups.items()
        if len({run["task"] for run in group}) == most
        and group[0]["method"] != "tune.full"
        and name.startswith(mark["of"])
        and group[0]["trained"]["share"] <= mark["share"]
    }
    if not fit:
        return f"Claim: {mark['claim']}. Measured: none trains so few, does not hold.\n"
    best = max(fit, key=lambda name: fit[name])
    return f"Claim: {mark['claim']}. Measured: **{fit[best]:.1%}** ({best}), {_holds(fit[best] >= mark['kept'])}.\n"


def cached(found: dict[str, Any]) -> str:
    rows = []
    for r in found["runs"]:
        seconds = {name: float(np.mean(values)) for name, values in r["seconds"].items()}
        accuracy = {name: float(np.mean(values)) for name, values in r["accuracy"].items()}
        rows.append(
            f"| {r['model']} | {r['blocks']} | {r['rows']:,} | {seconds['full']:.2f} | {seconds['off']:.2f} | {seconds['first']:.2f} | "
            f"{seconds['cache']:.2f} | {_times(r['faster'])} | {_times(r['than_full'])} | {accuracy['off']:.3f} | {accuracy['auto']:.3f} | "
            f"{_points(r['difference'])} |"
        )
    least, full = (min(r[key]["value"] for r in found["runs"]) for key in ("faster", "than_full"))
    return "\n".join(
        [
            "## What frozen blocks give, kept on disk",
            "",
            f"Claim: epochs after the first are at least {found['wanted']:g}x as fast. Measured, the least of the rows: **{least:.2f}x** against "
            f"the same without the cache, {_holds(least >= found['wanted'])}; **{full:.2f}x** against full tuning, "
            f"{_holds(full >= found['wanted'])}.",
            "",
            f"{found['what']}; seconds are medians of an epoch, means of {len(found['seeds'])} seed(s); in brackets the least and the most. "
            "The first epoch with the cache has the making of it in it.",
            "",
            "| model | frozen blocks | rows | full tuning, s | no cache, s | first with it, s | later, s | faster than without | than full tuning | "
            "accuracy without | with | difference, points |",
            "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
            *rows,
            "",
            _made(found),
        ]
    )


def bundled(found: dict[str, Any]) -> str:
    memory, times, wanted = found["memory"], found["times"], found["wanted"]
    mixed, ten = times["bundle, mixed / a folder, one task"], times["bundle, mixed / bundle, one task"]
    rows = [f"| {name} | {one['p50_ms']:.1f} | {one['p95_ms']:.1f} |" for name, one in found["milliseconds"].items()]
    kinds = ", ".join(" + ".join(task["grafts"]) for task in found["tasks"])
    return "\n".join(
        [
            "## Ten tasks in one bundle",
            "",
            f"Claim: at most {wanted['memory']}x the memory of one task's folder. Measured: **{memory['times']:.2f}x** "
            f"({memory['bundle']['mb']:.0f} MB against {memory['folder']['mb']:.0f} MB, the process included), "
            f"{_holds(memory['times'] <= wanted['memory'])}.\n",
            f"Claim: a mixed batch takes at most {wanted['time']}x the time of one task's. Measured: **{mixed['value']:.2f}x** against a folder of its "
            f"own, {_holds(mixed['value'] <= wanted['time'])}; **{ten['value']:.2f}x** against one task in the bundle, "
            f"{_holds(ten['value'] <= wanted['time'])}.",
            "",
            f"{found['what']}; {found['calls']} calls each, interleaved, {found['threads']} thread(s). The tasks' grafts: {kinds}. On disk the bundle "
            f"has {found['size_mb']['bundle']:.0f} MB, ten folders {found['size_mb']['folders']:.0f} MB. Answers differ by at most "
            f"{found['apart']['bundle and folders']:.1g} from those of the folders, and by {found['apart']['bundle and PEFT']:.1g} from PEFT's, which "
            "runs in torch float32.",
            "",
            "| batches of 32 | p50 ms | p95 ms |",
            "|---|--:|--:|",
            *rows,
            "",
            *(f"- {name}: {_times(ratio)}" for name, ratio in times.items()),
            "",
            _made(found),
        ]
    )


def _times(number: dict[str, Any]) -> str:
    return f"{number['value']:.2f}x ({number['low']:.2f} to {number['high']:.2f})"


def _mean(values: list[float], form: str) -> str:
    return form.format(sum(values) / len(values)) if values else ""


def _interval(number: dict[str, Any]) -> str:
    return f"{number['value']:.3f} ({number['low']:.3f} to {number['high']:.3f})"


def _share(number: dict[str, Any]) -> str:
    return f"{number['value']:.1%} ({number['low']:.1%} to {number['high']:.1%})"


def _holds(it_does: bool) -> str:
    return "holds" if it_does else "does not hold"


def _made(found: dict[str, Any]) -> str:
    e = found["environment"]
    return (
        f"<sub>`{found['command']}`, {found['made'][:10]}, commit {str(e['commit'])[:12]}, {e['cpu']}, {e['cores']} cores, "
        f"torch {e['versions'].get('torch')}, transformers {e['versions'].get('transformers')}, ONNX Runtime "
        f"{e['versions'].get('onnxruntime')}, seeds {found['seeds']}</sub>\n"
    )


FILES = {
    "core.json": {"training": training, "runtime": runtime, "student": student, "install": install},
    "prune.json": {
        "fisher": fisher,
        "table": partial(by_speed, title="Quality against speed: MiniLM-6", file="pruning.svg"),
        "base": partial(by_speed, title="Quality against speed: a base-size model", file="pruning-base.svg"),
        "ledger": partial(ledger, title="The ledger of claims about pruning"),
        "attention": attention,
    },
    "tune.json": {
        "table": partial(tuned, title="Tuning a small part: MiniLM-6"),
        "base": partial(tuned, title="Tuning a small part: a base-size model"),
        "cache": cached,
        "bundle": bundled,
        "ledger": partial(ledger, title="The ledger of claims about tuning"),
    },
    "distil.json": {"students": students, "tag": half_depth, "answer": half_depth, "ledger": ledger},
}

if __name__ == "__main__":
    main()
