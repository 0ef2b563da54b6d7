"""What a report says: its headline, each line of the budget against what was measured, and where the time went.

Nothing here is measured; everything is read from `report.json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smidgen.words import NBSP, NOT_MEASURED, bounds, known, mb, metric_of, ms, plain, ranged, said, score, share, some

Report = Mapping[str, Any]
Entry = Mapping[str, Any]
SMALL = 0.01  # share of the whole time below which a stage has no line of its own
CLASSES = 12  # classes of a split that are counted one by one, at most
TYPES = 30  # labels or entity types with a row of their own, at most


def headline(report: Report) -> str:
    """The winner in one line; without a winner, that there is none."""
    entry = report["winner"]
    if entry is None:
        missed = chosen(report)
        return f"{missed['name']} fits on dev, but not in the end" if missed else "No candidate meets the whole budget"
    kept, (quality, split) = entry["numbers"].get("quality_kept"), quality_of(entry)
    value = f"keeps {said(kept)} of the teacher" if kept else ""
    if not kept and quality:
        value = f"{metric_of(report, quality['metric'])} {said(quality)}" + (" on dev" if split == "dev" else "")
    speed, size = latency_of(entry, percentile(report)), entry["numbers"]["size_mb"]
    facts = [f"{ms(speed)} {percentile(report)}" if speed else "", mb(size) if size else "", value]
    interval = bounds(kept or quality)
    text = f"{entry['name']}: {', '.join(filter(None, facts)) or NOT_MEASURED}"
    return text + (f" (95{NBSP}% interval {interval})" if interval else "")


def percentile(report: Report) -> str:
    """The percentile of the latency that the budget names, else p95."""
    limit = report["budget"]["latency"]
    return str(limit["percentile"]) if limit else "p95"


def percentiles(entries: Sequence[Entry]) -> list[str]:
    """The percentiles to show: p99 only where there were calls enough for it."""
    return ["p50", "p95", *(["p99"] if any(latency_of(entry, "p99") for entry in entries) else [])]


def latency_of(entry: Entry, which: str) -> float | None:
    """A percentile of an entry's latency, in ms."""
    return known((entry["numbers"]["latency"] or {}).get(f"{which}_ms"))


def quality_of(entry: Entry) -> tuple[Mapping[str, Any] | None, str]:
    """The quality on test where there is one, else on dev; and which of the two it is."""
    numbers = entry["numbers"]
    return (numbers["quality"], "test") if numbers["quality"] else (numbers.get("dev_quality"), "dev")


def chosen(report: Report) -> Entry | None:
    """The winner; without one, the candidate that was chosen on dev and missed the budget in the end, if any."""
    picked = (entry for entry in report["candidates"] if entry["status"] in ("winner", "chosen"))
    return report["winner"] or next(picked, None)


def losers(report: Report) -> list[Entry]:
    """The candidates without the winner."""
    name = report["winner"]["name"] if report["winner"] else None
    return [entry for entry in report["candidates"] if entry["name"] != name]


def compared(report: Report) -> list[tuple[str, Entry]]:
    """What is shown side by side, each with its role: the one chosen, the teacher, the baselines."""
    picked = chosen(report)
    first = [("winner" if report["winner"] else "candidate", picked)] if picked else []
    return [*first, ("teacher", report["teacher"]), *(("baseline", entry) for entry in report["baselines"])]


@dataclass(frozen=True)
class Listed:
    """An entry, what it is to the report, and the anchor where all of it is told."""

    anchor: str
    role: str  # winner, teacher, baseline or candidate
    entry: Entry


def listed(report: Report) -> list[Listed]:
    """Every entry once: the one chosen, the teacher, the baselines, the other candidates."""
    roles = compared(report)
    roles += [("candidate", entry) for entry in losers(report) if entry is not chosen(report)]
    return [Listed(f"entry-{i}", role, entry) for i, (role, entry) in enumerate(roles)]


def is_trained(entry: Entry) -> bool:
    """Whether anything is known of its quality."""
    return quality_of(entry)[0] is not None


@dataclass(frozen=True)
class Alternative:
    """The best along one axis; its anchor is "" where no entry has that name."""

    axis: str
    name: str
    why: str
    anchor: str
    numbers: Mapping[str, Any] | None


def alternatives(report: Report) -> list[Alternative]:
    """What would win if one number alone counted."""
    known_as = {str(one.entry["name"]): one for one in listed(report)}
    found = []
    for told in report.get("alternatives") or ():
        one = known_as.get(str(told.get("name")))
        numbers = one.entry["numbers"] if one else told.get("numbers")
        broken = told.get("breaks")
        why = f"over the budget: {', '.join(broken)}" if broken else "within the budget" if broken is not None else ""
        role = "the winner itself" if one and one.role == "winner" else str(told.get("why") or why)
        found.append(
            Alternative(str(told.get("axis")), str(told.get("name")), role, one.anchor if one else "", numbers)
        )
    return found


def choice(report: Report) -> str:
    """How many were compared on dev, and how sure the choice is; "" where the report does not say."""
    told = report.get("choice") or {}
    compared, sure = known(told.get("compared")), known(told.get("sure"))
    among, ties = known(told.get("among")), told.get("ties") or ()
    words = []
    if compared is not None:
        many = f"{compared:,.0f} {'candidate was' if compared == 1 else 'candidates were'} compared on dev"
        words.append(f"{many}{f', {among:,.0f} of them to the end' if among is not None else ''}.")
    if sure is not None and told.get("keeps"):
        words.append(f"In {share(sure)} of the resamples of dev the winner keeps the quality asked for.")
    elif sure is not None and among != 1:
        words.append(f"In {share(sure)} of the resamples of dev the winner is the best of them.")
    if ties:
        words.append(f"Dev cannot tell it from {some(ties, 3)}.")
    return " ".join(words)


def counted(classes: Mapping[str, Any] | None) -> tuple[list[tuple[str, Any]], int]:
    """The most frequent classes of a split with their counts, in the order of the split; and how many are left out."""
    every = list((classes or {}).items())
    most = sorted(every, key=lambda item: -(known(item[1]) or 0))[:CLASSES]
    return [item for item in every if item in most], len(every) - len(most)


def types(portrait: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], int]:
    """The labels or entity types that the winner gets wrong most often, in their own order; how many are left out."""
    every = portrait.get("found") or []
    most = sorted(every, key=lambda row: -sum(row["winner"][1:]))[:TYPES]
    return [row for row in every if row in most], len(every) - len(most)


def f1(counts: Sequence[int]) -> float | None:
    """Of [hit, missed, said in vain]; None where there is nothing to find and nothing was said."""
    hit, missed, vain = counts
    return 2 * hit / (2 * hit + missed + vain) if hit + missed + vain else None


def chance(p: object) -> str:
    """What a p-value says, in words."""
    value = known(p)
    if value is None:
        return ""
    told = "p below 0.001" if value < 0.001 else f"p = {value:.3f}"
    if value < 0.05:
        return f"One is right more often than the other, by more than chance (McNemar’s exact test, {told})."
    return f"That one is right more often than the other is not shown (McNemar’s exact test, {told})."


def trained(report: Report) -> list[tuple[str, dict[str, Any]]]:
    """Names with the training curves of their stages: the teacher, the one chosen, the others; no stage twice."""
    picked = chosen(report)
    first = [report["teacher"], *([picked] if picked else [])]
    found: list[tuple[str, dict[str, Any]]] = []
    shown: list[Any] = []
    for entry in (*first, *report["candidates"], *report["baselines"]):
        own = {stage: rows for stage, rows in (entry.get("curves") or {}).items() if rows and rows not in shown}
        shown += own.values()
        found += [(str(entry["name"]), own)] if own else []
    return found


@dataclass(frozen=True)
class Constraint:
    """One line of budget against measurement; `met` is None where nothing was measured; `met_by` counts entries."""

    name: str
    wanted: str
    measured: str = NOT_MEASURED
    by: str = ""
    met: bool | None = None
    note: str = ""
    met_by: str = ""


def constraints(report: Report) -> list[Constraint]:
    """Each constraint of the budget against the one chosen, or without one against the candidate that comes closest."""
    budget, which, picked = report["budget"], percentile(report), chosen(report)
    entries = [picked] if picked else report["candidates"]
    found = []
    if budget["latency"]:
        values = [(latency_of(entry, which), entry["name"]) for entry in entries]
        found.append(_at_most(f"Latency, {which}", budget["latency"]["ms"], "ms", values))
    for key, name in (("size_mb", "Size on disk"), ("memory_mb", "Memory")):
        if budget[key] is not None:
            values = [(known(entry["numbers"][key]), entry["name"]) for entry in entries]
            found.append(_at_most(name, budget[key], "MB", values))
    if budget["quality"]:
        found.append(_quality(report, entries))
    if budget["time_limit_s"] is not None:
        spent = [(known(report["timing"]["seconds"]), "the whole run")]
        note = "No further candidate is trained after it; the verdict does not count it."
        found.append(_at_most("Time", budget["time_limit_s"], "s", spent, note))
    return found


def _at_most(
    name: str, limit: float, unit: str, values: Sequence[tuple[float | None, str]], note: str = ""
) -> Constraint:
    wanted = f"at most {limit:,g}{NBSP}{unit}"
    measured = [(value, by) for value, by in values if value is not None]
    if not measured:
        return Constraint(name, wanted)
    value, by = min(measured)
    met_by = f"{sum(one <= limit for one, _ in measured)} of {len(measured)}"
    return Constraint(name, wanted, plain(value, NBSP + unit), by, value <= limit, note, met_by)


def _quality(report: Report, entries: Sequence[Entry]) -> Constraint:
    limit = report["budget"]["quality"]
    floor, metric = float(limit["at_least"]), limit["metric"] or report["task"]["metric"]
    level = f"{100 * floor:g}{NBSP}%" if limit["of_teacher"] or "%" in score(floor, metric) else f"{floor:g}"
    wanted = f"{metric_of(report, metric)} at least {level}" + (" of the teacher’s" if limit["of_teacher"] else "")
    held = [(_held(entry, report["teacher"], limit["of_teacher"]), entry["name"]) for entry in entries]
    measured = [(number, by) for number, by in held if number and known(number["value"]) is not None]
    if not measured:
        return Constraint("Quality", wanted)
    number, by = max(measured, key=lambda pair: pair[0]["value"])
    why = "the test set was not read for it" if report["data"]["test"] else "there is no test set"
    note = f"On dev: {why}. " if number.get("split") == "dev" else ""
    if bounds(number) and number["low"] < floor <= number["high"]:
        note += f"The interval lies on both sides of {level}: so few texts do not settle it."
    met_by = f"{sum(one['value'] >= floor for one, _ in measured)} of {len(measured)}"
    return Constraint("Quality", wanted, ranged(number), by, number["value"] >= floor, note.strip(), met_by)


def _held(entry: Entry, teacher: Entry, of_teacher: bool) -> Mapping[str, Any] | None:
    """The quality to judge by: on test where there is one, else on dev; as a share of the teacher's if so asked."""
    numbers, other = entry["numbers"], teacher["numbers"]
    if of_teacher and numbers.get("quality_kept"):
        return numbers["quality_kept"]
    for split, key in (("test", "quality"), ("dev", "dev_quality")):
        if numbers.get(key) and not of_teacher:
            return {**numbers[key], "split": split}
        if numbers.get(key) and other.get(key) and other[key]["value"]:
            return {"value": numbers[key]["value"] / other[key]["value"], "split": split}
    return None


def spent(report: Report) -> list[tuple[str, float]]:
    """Where the time went, in seconds: stages in their order, the small ones as one line, then what was no stage."""
    total = known(report["timing"]["seconds"]) or 0.0
    made = [(str(s["name"]), known(s["seconds"]) or 0.0) for s in report["timing"]["stages"] if not s.get("reused")]
    found = [(name, time) for name, time in made if time >= SMALL * total]
    small = [time for _, time in made if time < SMALL * total]
    if small:
        found.append((f"{len(small)} shorter {'stage' if len(small) == 1 else 'stages'}", sum(small)))
    rest = total - sum(time for _, time in made)
    return [*found, ("timing, judging and writing", rest)] if rest >= SMALL * total > 0 else found


def cost(report: Report, entry: Entry) -> tuple[float, int]:
    """The seconds of the stages of an entry's lineage, and how many of these were on disk already."""
    made, steps = seconds_by_id(report), entry.get("lineage") or ()
    return sum(made.get(str(step.get("id")), 0.0) for step in steps), sum(str(s.get("id")) not in made for s in steps)


def seconds_by_id(report: Report) -> dict[str, float]:
    """How long each stage took, of those that this run made."""
    stages = report["timing"]["stages"]
    return {str(s["id"]): s["seconds"] for s in stages if s.get("id") and not s.get("reused")}
