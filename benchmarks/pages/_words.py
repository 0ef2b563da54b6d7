"""Numbers in words, the foot of a section, and the ledger of claims that several files have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def points(number: dict[str, Any]) -> str:
    return f"{100 * number['value']:+.1f} ({100 * number['low']:+.1f} to {100 * number['high']:+.1f})"


def times(number: dict[str, Any]) -> str:
    return f"{number['value']:.2f}x ({number['low']:.2f} to {number['high']:.2f})"


def mean(values: list[float], form: str) -> str:
    return form.format(sum(values) / len(values)) if values else ""


def interval(number: dict[str, Any]) -> str:
    return f"{number['value']:.3f} ({number['low']:.3f} to {number['high']:.3f})"


def shared(number: dict[str, Any]) -> str:
    return f"{number['value']:.1%} ({number['low']:.1%} to {number['high']:.1%})"


def holds(it_does: bool) -> str:
    return "holds" if it_does else "does not hold"


def resolved(found: Mapping[str, Mapping[str, Any]], least: float) -> str:
    """Is a number at least so much, by its interval on each of several? `holds on a, not resolved on the others`."""
    above = [name for name, number in found.items() if number["low"] > least]
    below = [name for name, number in found.items() if number["high"] < least]
    if len(found) in (len(above), len(below)):
        return holds(bool(above))
    parts = [f"{holds(names is above)} on {_listed(names)}" for names in (above, below) if names]
    left = len(found) - len(above) - len(below)
    if parts and left:
        parts.append(f"not resolved on the other{'s' * (left > 1)}")
    return ", ".join(parts) or "not resolved"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def foot(found: dict[str, Any]) -> str:
    e = found["environment"]
    elsewhere = [name for name in found.get("trained_on", ()) if name and name != e["cpu"]]
    trained = f"trained on {', '.join(elsewhere)}, " if elsewhere else ""
    return (
        f"<sub>`{found['command']}`, {found['made'][:10]}, commit {str(e['commit'])[:12]}, {trained}{e['cpu']}, {e['cores']} cores, "
        f"torch {e['versions'].get('torch')}, transformers {e['versions'].get('transformers')}, ONNX Runtime "
        f"{e['versions'].get('onnxruntime')}, seeds {found['seeds']}</sub>\n"
    )


def over(group: list[dict[str, Any]], name: str) -> float:
    """The mean over seeds."""
    return float(np.mean([run[name]["value"] for run in group]))


def ledger(found: dict[str, Any], title: str = "The ledger of claims") -> str:
    rows = []
    for r in found["rows"]:
        rows.append(f"| {r['claim']} | {r['source']} | {r['setting']} | {points(r['difference'])} | {r['verdict']} |")
    if "temperature" in found:
        sizes = found["temperature"]
        spread = {way: max(sizes[way]) / min(sizes[way]) for way in ("with", "without")}
        kept = spread["with"] < 2 < spread["without"]
        rows.append(
            f"| {sizes['claim']} | {sizes['source']} | {sizes['setting']} | largest over smallest norm, T = 1 to 8: "
            f"{spread['with']:.1f} with T^2, {spread['without']:.0f} without | {holds(kept)} |"
        )
    if "speed" in found:
        r = found["speed"]
        rows.append(f"| {r['claim']} | {r['source']} | {r['setting']} | {times(r['speedup'])} | {r['verdict']} |")
    if "heads" in found:
        r = found["heads"]
        rows.append(
            f"| {r['claim']} | {r['source']} | {r['setting']} | {times(r['speedup'])}, {r['at_32']:.2f}x in batches of 32 | "
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
            foot(found),
        ]
    )
