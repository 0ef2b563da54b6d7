"""What tune.json says: small parts tuned over one frozen base."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from pages._words import foot, holds, ledger, points, shared, times

COSTS = ("seconds", "memory_mb")


def tuned(found: dict[str, Any], title: str) -> str:
    """What each way keeps on the mean of its tasks, and what it costs; then its scores."""
    groups = {
        name: [r for r in found["runs"] if r["way"] == name] for name in dict.fromkeys(r["way"] for r in found["runs"])
    }
    tasks = list(dict.fromkeys(run["task"] for run in found["runs"]))
    rows, scores = [], []
    costly = not any("NVIDIA" in name for name in found.get("trained_on", ()))  # where many trainings ran at a time
    for name, group in groups.items():
        first, shares = group[0], _by_seed(group)
        own = list(dict.fromkeys(run["task"] for run in group))
        costs = [f" {np.mean([run[key] for run in group]):.0f} |" for key in COSTS] if costly else []
        rows.append(
            f"| {name} | {len(own)} | {_spread(shares)} | {shared(first['kept']) if first['kept'] else ''} | "
            f"{first['trained']['share']:.2%} | {first['trained']['delta']:,} | {first['trained']['head']:,} | "
            f"{np.mean([run['bytes'] for run in group]) / 1e6:.2f} |{''.join(costs)}"
        )
        cells = [_scored([run for run in group if run["task"] == task]) for task in tasks]
        scores.append(f"| {name} | {' | '.join(cells)} |")
    sizes = ", ".join(f"{task} {next(r['quality']['n'] for r in found['runs'] if r['task'] == task)}" for task in tasks)
    before = np.mean([run["before_mb"] for run in found["runs"]])
    spent = (
        f" Seconds and peaks are means of the tasks; each run had a process of its own, which held {before:.0f} MB before it began."
        if costly
        else ""
    )
    return "\n".join(
        [
            f"## {title}",
            "",
            *(_tuning_mark(groups, mark) for mark in found["wanted"]),
            "",
            f"{found['what']}; rows of test: {sizes}; {len(found['seeds'])} seed(s). Kept: of full tuning's score, on the same rows of "
            f"test; the mean of the tasks, then the least and the most of the seeds.{spent} Trained are numbers of the body, or beside it, and of "
            "the head.",
            "",
            f"| way | tasks | kept | interval of {tasks[0]}, first seed | trained | numbers | head | MB a task |{' seconds | peak MB |' * costly}",
            f"|---|--:|--:|--:|--:|--:|--:|--:|{'--:|--:|' * costly}",
            *rows,
            "",
            *([found["counted"], ""] if "counted" in found else []),
            "Scores on test: the mean of the seeds and the interval of the first (accuracy; F1 of entities for wnut17).",
            "",
            f"| way | {' | '.join(tasks)} |",
            f"|---|{'--:|' * len(tasks)}",
            *scores,
            "",
            foot(found),
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
    return f"Claim: {mark['claim']}. Measured: **{fit[best]:.1%}** ({best}), {holds(fit[best] >= mark['kept'])}.\n"


def cached(found: dict[str, Any]) -> str:
    rows = []
    for r in found["runs"]:
        seconds = {name: float(np.mean(values)) for name, values in r["seconds"].items()}
        accuracy = {name: float(np.mean(values)) for name, values in r["accuracy"].items()}
        rows.append(
            f"| {r['model']} | {r['blocks']} | {r['rows']:,} | {seconds['full']:.2f} | {seconds['off']:.2f} | {seconds['first']:.2f} | "
            f"{seconds['cache']:.2f} | {times(r['faster'])} | {times(r['than_full'])} | {accuracy['off']:.3f} | {accuracy['auto']:.3f} | "
            f"{points(r['difference'])} |"
        )
    least, full = (min(r[key]["value"] for r in found["runs"]) for key in ("faster", "than_full"))
    return "\n".join(
        [
            "## What frozen blocks give, kept on disk",
            "",
            f"Claim: epochs after the first are at least {found['wanted']:g}x as fast. Measured, the least of the rows: **{least:.2f}x** against "
            f"the same without the cache, {holds(least >= found['wanted'])}; **{full:.2f}x** against full tuning, "
            f"{holds(full >= found['wanted'])}.",
            "",
            f"{found['what']}; seconds are medians of an epoch, means of {len(found['seeds'])} seed(s); in brackets the least and the most. "
            "The first epoch with the cache has the making of it in it.",
            "",
            "| model | frozen blocks | rows | full tuning, s | no cache, s | first with it, s | later, s | faster than without | than full tuning | "
            "accuracy without | with | difference, points |",
            "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
            *rows,
            "",
            foot(found),
        ]
    )


def bundled(found: dict[str, Any]) -> str:
    memory, took, wanted = found["memory"], found["times"], found["wanted"]
    mixed, ten = took["bundle, mixed / a folder, one task"], took["bundle, mixed / bundle, one task"]
    rows = [f"| {name} | {one['p50_ms']:.1f} | {one['p95_ms']:.1f} |" for name, one in found["milliseconds"].items()]
    kinds = ", ".join(" + ".join(task["grafts"]) for task in found["tasks"])
    return "\n".join(
        [
            "## Ten tasks in one bundle",
            "",
            f"Claim: at most {wanted['memory']}x the memory of one task's folder. Measured: **{memory['times']:.2f}x** "
            f"({memory['bundle']['mb']:.0f} MB against {memory['folder']['mb']:.0f} MB, the process included), "
            f"{holds(memory['times'] <= wanted['memory'])}.\n",
            f"Claim: a mixed batch takes at most {wanted['time']}x the time of one task's. Measured: **{mixed['value']:.2f}x** against a folder of its "
            f"own, {holds(mixed['value'] <= wanted['time'])}; **{ten['value']:.2f}x** against one task in the bundle, "
            f"{holds(ten['value'] <= wanted['time'])}.",
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
            *(f"- {name}: {times(ratio)}" for name, ratio in took.items()),
            "",
            foot(found),
        ]
    )


SECTIONS = {
    "table": partial(tuned, title="Tuning a small part: MiniLM-6"),
    "longer": partial(tuned, title="Tuning a small part, 16 epochs: MiniLM-6"),
    "base": partial(tuned, title="Tuning a small part: a base-size model"),
    "base, longer": partial(tuned, title="Tuning a small part, 16 epochs: a base-size model"),
    "cache": cached,
    "bundle": bundled,
    "ledger": partial(ledger, title="The ledger of claims about tuning"),
}
