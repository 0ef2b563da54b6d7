"""What runtime.json says: precision, graphs and engines."""

from __future__ import annotations

from typing import Any

from pages._words import foot, holds, times


def speed(found: dict[str, Any]) -> str:
    """A row for each model, kind of text and batch; then what every contestant took."""
    rows, every = [], []
    names = list(dict.fromkeys(name for r in found["rows"] for name in r["p50_ms"]))
    for r in found["rows"]:
        at = f"{r['model']} | {r['texts']} | {r['batch']}"
        rows.append(
            f"| {at} | {r['way']} | {r['p50_ms']['smidgen']:.2f} | {r['best_other']} | {r['p50_ms'][r['best_other']]:.2f} | "
            f"{times(r['times_as_fast'])} | {r['points_lost']:+.2f} |"
        )
        every.append(f"| {at} | {' | '.join(_ms(r['p50_ms'].get(name)) for name in names)} |")
    short, long = ([r for r in found["rows"] if r["texts"].startswith(kind)] for kind in ("SST", "BBC"))
    least, slowest = (min(r["times_as_fast"]["value"] for r in part) for part in (short, long))
    lost = max(r["points_lost"] for r in found["rows"])
    failed = {f"{r['model']}: {name} ({why})" for r in found["rows"] for name, why in r["failed"].items()}
    return "\n".join(
        [
            "## Text in to label out, against what others run",
            "",
            f"Claim: on short texts at least 1.2x as fast as the best of the others. Measured, the least of the rows: **{least:.2f}x**, "
            f"{holds(least >= 1.2)}.\n",
            f"Claim: never slower than the best on long texts. Measured: **{slowest:.2f}x**, {holds(slowest >= 1)}.\n",
            f"Claim: at most 0.3 points of accuracy lost against float32. Measured, the most: **{lost:.2f}**, {holds(lost <= 0.3)}.",
            "",
            f"{found['what']}; {found['threads']} threads; every rival has the stock tokenizer. Texts to time on: "
            f"{', '.join(f'{n} {kind}' for kind, n in found['n'].items())}.",
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
            f"{found['what']}. Peaks, thousand million operations a second: {peaks}.",
            "",
            "| model | precision | batch | tokens | 10^9 operations a second | of the peak |",
            "|---|---|--:|--:|--:|--:|",
            *rows,
            "",
            foot(found),
        ]
    )


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


SECTIONS = {"speed": speed, "limit": limit}
