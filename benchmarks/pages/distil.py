"""What distil.json says: students and their teachers."""

from __future__ import annotations

from typing import Any

from pages._words import foot, holds, interval, ledger, mean, points, shared


def students(found: dict[str, Any]) -> str:
    rows, reached = [], {}
    for name in dict.fromkeys(run["student"] for run in found["runs"]):
        speed = found["speed"][name]["speedup"]
        ways = {how: [r for r in found["runs"] if (r["student"], r["how"]) == (name, how)] for how in WAYS}
        with_, without = (ways[how] for how in WAYS)
        shares = [r["kept"]["value"] for r in with_]
        timed = shares[:1] if name == found["cascade"]["name"] else shares  # seeds of a cascade pass on more or less
        reached[name] = sum(timed) / len(timed), speed["value"]
        adds = points(found["adds"][name]) if name in found["adds"] else ""
        alone = mean([r["kept"]["value"] for r in without], "{:.1%}")
        rows.append(
            f"| {name} | {len(shares)} | {mean(shares, '{:.1%}')} | {shared(with_[0]['kept'])} | {alone} | "
            f"{adds} | {speed['value']:.0f}x ({speed['low']:.0f} to {speed['high']:.0f}) | "
            f"{with_[0]['size_mb']:.1f} |"
        )
    return "\n".join(
        [
            "## Students of a base-size teacher",
            "",
            *(f"{_best(reached, *mark)}\n" for mark in found["marks"]),
            f"{found['what']}. Teacher: {interval(found['teacher'])}, n = {found['n']}.",
            "",
            "| student | seeds | kept, mean | interval of the first seed | kept without distillation | distillation adds, points | "
            "times as fast as the teacher | MB |",
            "|---|--:|--:|--:|--:|--:|--:|--:|",
            *rows,
            "",
            _cascade(found),
            "",
            foot(found),
        ]
    )


def _cascade(found: dict[str, Any]) -> str:
    name, asked = found["cascade"]["name"], found["cascade"]["kept"]
    passed = [run["passed"] for run in found["runs"] if run["student"] == name]
    return (
        f"'{name}' is a cascade: what the student is not sure of goes on to the teacher's own int8 graph, "
        f"{', '.join(f'{each:.0%}' for each in passed)} of dev by seed, where it is asked for {asked:.0%} of the teacher with the guard of `smidgen cascade`; its speed is by the mean over texts, "
        "that of the others by the median. Timed, and counted for the mark, is the first seed alone; one that passes more on is slower."
    )


def _best(reached: dict[str, tuple[float, float]], share: float, times: float) -> str:
    """The mark, and who of those that are as fast keeps the most."""
    name = max((name for name in reached if reached[name][1] >= times), key=lambda name: reached[name][0])
    kept, speed = reached[name]
    return (
        f"Claim: some student keeps {100 * share:.0f} % at {times:.0f} times the speed. Measured: **{kept:.1%}** ({name}, {speed:.0f}x), "
        f"{holds(kept >= share)}."
    )


WAYS = ("distilled", "labels alone")


def half_depth(found: dict[str, Any]) -> str:
    rows = [
        f"| {r['seed']} | {r['how']} | {interval(r['teacher'])} | {interval(r['test'])} | {shared(r['kept'])} |"
        for r in found["runs"]
    ]
    kept = found["kept"]
    return "\n".join(
        [
            f"## Half the depth: {found['what'].partition(',')[0]}",
            "",
            f"Claim: a half-depth student keeps at least 95 % of its teacher's F1. Measured: **{kept['mean']:.1%}** (least of the seeds "
            f"{kept['least']:.1%}), {holds(kept['mean'] >= 0.95)}. {found['what']}, n = {found['n']}.",
            "",
            "| seed | student | teacher | student's F1 | kept |",
            "|--:|---|--:|--:|--:|",
            *rows,
            "",
            foot(found),
        ]
    )


SECTIONS = {"students": students, "tag": half_depth, "answer": half_depth, "ledger": ledger}
