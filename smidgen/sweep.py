"""Ways of tuning side by side: `smidgen tune --method auto`.

Without a time limit every way is trained in full. With one, all of them on a third of their steps first, full tuning
before the others, in the half of the time; then the best half of them in full, the best first, and full tuning as what
they are compared with. What would not end in time is foretold from its first steps, or from what its third took, and is
not begun or not finished.
What was trained is on disk: the same command again goes on from it, with its time anew.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from smidgen.advice import Tried, advise
from smidgen.artefact import write_atomic
from smidgen.deadline import Until
from smidgen.errors import UNMADE, InputError, OutOfTime
from smidgen.measure.environment import environment
from smidgen.measure.quality import kept
from smidgen.recipe import to_data
from smidgen.schema import TUNE, lacking
from smidgen.tunecard import page
from smidgen.tuning import FOLDER, Job, Tuned, Tuner, Way, begin, clear, known, leave, long_enough, way_of
from smidgen.watch import Watch
from smidgen.words import ranged

SCHEMA = 1
SHARE = 1 / 3  # of the steps, in the first round
FIRST = 0.5  # of the time, for the first round
DEFAULT = ("head", "bitfit", "lora", "adapter", "prefix")  # those that there are; and freezing, and full


@dataclass
class Entry:
    """A way on its way through the sweep."""

    way: Way
    status: str = "skipped"  # trained | short | refused | skipped
    reason: str = ""
    short: Tuned | None = None
    whole: Tuned | None = None

    @property
    def tuned(self) -> Tuned | None:
        return self.whole or self.short


@dataclass
class Clock:
    """When it has to be over; `now` is a test's to set."""

    started: float
    limit: float | None = None
    now: Callable[[], float] = time.monotonic
    after: float = 0.0  # the most that scoring and keeping a way has taken once it was trained

    def until(self, share: float = 1.0) -> float:
        """When a training has to end, so that it can be scored, and test read at last."""
        return math.inf if self.limit is None else self.started + share * self.limit - 2 * self.after


def ways(blocks: int, epochs: float | None = None, batch_size: int | None = None) -> list[Way]:
    """What is tried: the methods of the list that there are, freezing from below at three depths, and full."""
    found = [way_of(name, None, epochs, None, batch_size) for name in DEFAULT if name in known()]
    depths = sorted({blocks, round(3 * blocks / 4), round(blocks / 2)} - {0}, reverse=True)
    found += [way_of("freeze", {"blocks": depth}, epochs, None, batch_size) for depth in depths]
    return [*found, way_of("full", None, epochs, None, batch_size)]


def sweep(
    job: Job,
    out: Path,
    watch: Watch,
    tasks: int = 1,
    time_limit_s: float | None = None,
    epochs: float | None = None,
    batch_size: int | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Try ways of tuning and say which to take: OUT/tune.json, OUT/tune.md, and the winner in OUT/delta or OUT/model.

    Returns:
        What tune.json says.

    Raises:
        InputError: what was given cannot be used, or no way can be trained in the time.
    """
    clock = Clock(time.monotonic(), time_limit_s)
    tuner = begin(job, out, watch, way_of("full", None, epochs, None, batch_size))
    tried = [Entry(long_enough(way, len(tuner.data.train))) for way in ways(tuner.base.blocks, epochs, batch_size)]
    train_all(tuner, tried, clock)
    if not any(entry.tuned for entry in tried):
        told = "; ".join(f"{entry.way.name}: {entry.reason}" for entry in tried)
        raise InputError(f"--time-limit: no way of tuning could be trained in it ({told}). Give more time.")
    return conclude(tuner, tried, tasks, time_limit_s, clock, command)


def train_all(tuner: Tuner, tried: Sequence[Entry], clock: Clock) -> None:
    """The rounds of the module's text."""
    if clock.limit is None:
        for entry in tried:
            entry.whole = _try(tuner, entry, entry.way, "trained", clock, clock.until())
        return
    for entry in sorted(tried, key=_is_full, reverse=True):  # first of all what the others are compared with
        entry.short = _try(tuner, entry, shortened(entry.way), "short", clock, clock.until(FIRST))
    for entry in promoted(tried):
        assert entry.short is not None
        left, takes = clock.until() - clock.now(), entry.short.numbers["seconds"] / SHARE
        if takes > left and not tuner.has(entry.way):
            entry.reason = f"all its steps take about {takes:,.0f} s, and {max(left, 0):,.0f} s were left"
            continue
        entry.whole = _try(tuner, entry, entry.way, "trained", clock, clock.until())


def shortened(way: Way) -> Way:
    """The same with a third of the steps."""
    return replace(way, training=replace(way.training, epochs=round(SHARE * way.training.epochs, 3)))


def promoted(tried: Sequence[Entry]) -> list[Entry]:
    """The half that did best on dev, the best first, and full tuning where it is not among them."""
    scored = [entry for entry in tried if entry.short is not None]
    ranked = sorted(scored, key=_dev, reverse=True)
    half = ranked[: math.ceil(len(ranked) / 2)]
    return half + [entry for entry in ranked if entry not in half and _is_full(entry)]


def _is_full(entry: Entry) -> bool:
    return entry.way.method == f"{FOLDER}full"


def _try(tuner: Tuner, entry: Entry, way: Way, status: str, clock: Clock, until: float) -> Tuned | None:
    """Train a way, and note how that went; None where it came to nothing."""
    if entry.status == "refused":
        return None
    begun, fresh = clock.now(), not tuner.has(way)
    if fresh and begun > until:
        entry.reason = "the time was over"
        return None
    try:
        found = tuner.tune(way, Until(tuner.watch, until, clock.now))
    except OutOfTime as late:
        entry.reason = str(late)
        return None
    except UNMADE as refusal:
        entry.status, entry.reason = "refused", str(refusal)
        return None
    entry.status, entry.reason = status, ""
    if fresh:
        clock.after = max(clock.after, clock.now() - begun - found.numbers["seconds"])
    return found


def conclude(
    tuner: Tuner, tried: Sequence[Entry], tasks: int, time_limit_s: float | None, clock: Clock, command: str
) -> dict[str, Any]:
    """Advise, read test once, and write everything down."""
    whole = any(entry.whole for entry in tried)
    judged = [entry for entry in tried if (entry.whole if whole else entry.short)]
    data, job = tuner.data, tuner.job
    shares = _shares(tuner, judged)
    advice = advise(
        [_tried(entry, shares[entry.way.name]) for entry in judged],
        *(tasks, tuner.base_bytes, len(data.train), len(data.dev), data.task.metric, whole),
    )
    (chosen,) = (entry.tuned for entry in judged if entry.way.name == advice.name)
    assert chosen is not None
    tuner.test(chosen)
    quality, reason = chosen.numbers["quality"], advice.why
    if quality:
        reason += f" On test, read for it alone: {ranged(quality)}, n={quality['n']:,}."
    splits = {name: getattr(data, name) for name in ("train", "dev", "test")}
    found = {
        "schema": SCHEMA,
        "command": command,
        "advised": advice.name,
        "reason": reason,
        "best": advice.best,
        "tied": list(advice.tied),
        "leaves": "model" if chosen.delta is None else "delta",
        "tasks": tasks,
        "time_limit_s": time_limit_s,
        "task": data.task.to_data(),
        "base": {
            "model": tuner.base.reference,
            "hash": tuner.base_hash,
            "family": tuner.base.family,
            "bytes": tuner.base_bytes,
            "parameters": tuner.base.parameters,
        },
        "seed": job.seed,
        "data": {
            name: split and {"source": split.source, "rows": len(split), "fingerprint": split.fingerprint}
            for name, split in splits.items()
        },
        "ways": [_data(entry, shares.get(entry.way.name)) for entry in tried],
        "seconds": round(clock.now() - clock.started, 1),
        "environment": environment(),
        "notes": list(data.warnings),
    }
    assert not list(lacking(found, TUNE))
    clear(tuner.out)
    leave(tuner, chosen, tuner.out if chosen.delta is None else tuner.out / "delta")
    write_atomic(tuner.out / "tune.md", page(found))
    write_atomic(tuner.out / "tune.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return found


def _shares(tuner: Tuner, judged: Sequence[Entry]) -> dict[str, dict[str, Any] | None]:
    """Of each way, its share of the best's score on the same rows, with its interval; None where the best scores 0."""
    best = max(judged, key=_dev)
    assert best.tuned is not None
    task, dev, top = tuner.data.task, tuner.data.dev, best.tuned
    assert dev.labels is not None
    found: dict[str, dict[str, Any] | None] = {}
    for entry in judged:
        assert entry.tuned is not None
        known = entry.tuned.numbers.get("kept")
        if _dev(best) <= 0:
            found[entry.way.name] = None
        elif known and known["of"] == top.artefact.id:
            found[entry.way.name] = known
        else:
            share = kept(task, tuner.on_dev(entry.tuned), tuner.on_dev(top), dev.labels)
            told = {"value": share.value, "low": share.low, "high": share.high, "n": len(dev)}
            found[entry.way.name] = entry.tuned.numbers["kept"] = {**told, "of": top.artefact.id}
    tuner.remember()
    return found


def _tried(entry: Entry, share: dict[str, Any] | None) -> Tried:
    assert entry.tuned is not None
    numbers = entry.tuned.numbers
    interval = (share["low"], share["high"]) if share else (1.0, 1.0)
    value = numbers["dev_quality"]["value"]
    return Tried(entry.way.name, value, interval, numbers["bytes"], entry.tuned.delta is not None, numbers["seconds"])


def _data(entry: Entry, share: dict[str, Any] | None) -> dict[str, Any]:
    tuned = entry.tuned
    return {
        "name": entry.way.name,
        "method": entry.way.method,
        "settings": dict(entry.way.settings),
        "train": to_data((tuned.way if tuned else entry.way).training),
        "status": entry.status,
        "reason": entry.reason,
        "leaves": None if tuned is None else "model" if tuned.delta is None else "delta",
        "path": tuned and f"stages/{tuned.artefact.id}",
        "numbers": tuned and {**tuned.numbers, "kept": share},
    }


def _dev(entry: Entry) -> float:
    assert entry.tuned is not None
    return float(entry.tuned.numbers["dev_quality"]["value"])
