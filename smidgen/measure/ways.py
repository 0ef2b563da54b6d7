"""The fastest way to run a folder on this machine: every engine in every precision on one, two, four ... threads, each
in a fresh process, in turns.

Where one text takes long, fewer are timed. What crashes or hangs all the same is told and dropped, and so is what would
be chosen and answers otherwise than ONNX Runtime. Another way has to be faster by more than turns differ, so that the
choice does not change with the weather.

Two engines round an int8 graph differently: 1 to 2 % of answers change, as many as int8 itself changes, and no fewer of
them are right. Where labels tell, another engine may therefore cost what int8 may: half a point, or what chance
explains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from smidgen.errors import ModelError
from smidgen.measure.child import ask
from smidgen.measure.quality import agreement, difference
from smidgen.runtime.engines import DEFAULT, Way, find, installed, names, refusal
from smidgen.runtime.machine import usable_cores
from smidgen.runtime.serving import Serving
from smidgen.tasks import Task

SAME = 0.995  # of the answers, at least, where no labels tell
MAX_LOSS = 0.5  # points of the metric, as for int8
TIMEOUT = 120.0  # seconds of one process
WELL = TIMEOUT / 3  # that it may take by what a text takes: another engine or precision may take three times as long
FEWEST = 4  # rows, of whatever length
MODULE = ["-P", "-m", "smidgen.measure.trial"]

Row = tuple[str, str | None]
Run = Callable[[Mapping[str, Any]], dict[str, Any]]  # from a job of smidgen.measure.trial to what it found


@dataclass(frozen=True)
class Effort:
    """How long ways are looked at."""

    turns: int = 3
    single: int = 60  # rows that are timed one by one
    together: int = 128  # and in batches
    budgets: tuple[int, ...] = (512, 1024, 4096)  # padded tokens of a call
    near: float = math.inf  # times as slow as the fastest, with which a way has another turn
    gain: float = 1.03  # times as fast as what stands before it, to be chosen

    @property
    def calls(self) -> int:
        """Texts that one process answers."""
        return 2 * self.single + (1 + len(self.budgets)) * self.together

    def within(self, ms: float) -> Effort:
        """With fewer rows where a text takes so long that a process would not end well within its time."""
        share = min(1.0, WELL * 1e3 / (self.calls * ms))
        single, together = (max(FEWEST, int(share * count)) for count in (self.single, self.together))
        return replace(self, single=single, together=together)


THOROUGH = Effort()
BRIEF = Effort(turns=2, single=30, together=64, budgets=(1024,), near=1.25, gain=1.1)


@dataclass(frozen=True)
class Trial:
    """What was measured of a way; `reason` says why it was dropped, "" where it was not."""

    way: Way
    ms: float | None = None  # mean over the rows, each the median of its turns
    texts_per_s: Mapping[int, float] | None = None  # by budget, the median of the turns
    same: float | None = None  # of the answers that ONNX Runtime gives to the rows that are timed
    reason: str = ""

    @property
    def budget(self) -> int:
        """The budget with the most texts a second."""
        assert self.texts_per_s is not None
        return max(self.texts_per_s, key=lambda budget: self.texts_per_s[budget])  # type: ignore[index]

    def to_data(self) -> dict[str, Any]:
        return {
            **self.way.to_data(),
            "ms": self.ms,
            "texts_per_s": self.texts_per_s,
            "same": self.same,
            "reason": self.reason,
        }


def ways(cores: int, most: int | None = None, engine: str | None = None) -> Iterator[Way]:
    """All that can be tried here, ONNX Runtime first; each takes all processors in one way or another.

    most: threads inside one call; None = as many as there are processors. engine: this one alone.
    """
    most = cores if most is None else max(1, min(most, cores))
    threads = [2**k for k in range(most.bit_length()) if 2**k < most] + [most]
    wanted = [engine] if engine is not None else sorted(filter(installed, names()), key=lambda name: name != DEFAULT)
    for name in wanted:
        for precision in find(name).PRECISIONS:
            if not refusal(name, precision):
                yield from (Way(name, precision, count, cores // count) for count in threads)


def paced(folder: Path, rows: Sequence[Row], run: Run | None = None, effort: Effort = THOROUGH) -> Effort:
    """As many of the rows as end in time, by what some of them take the first engine on one thread.

    Raises:
        ModelError: it did not run them.
    """
    way, few = Way(), rows[:FEWEST]
    job = {"folder": str(folder), "way": way.to_data(), "budgets": (), "rows": few, "single": len(few)}
    try:
        return effort.within(float(np.mean((run or alone)(job)["ms"])))
    except ModelError as error:
        raise _not_run(folder, way, str(error)) from None


def trials(
    folder: Path,
    rows: Sequence[Row],
    done: Callable[[int, int], None] = lambda done, of: None,
    run: Run | None = None,
    tried: Sequence[Way] = (),
    effort: Effort = THOROUGH,
) -> list[Trial]:
    """Every way measured, in turns; one that fails, or is far from the fastest, is not tried again.

    tried: the ways; () = all there are.

    Raises:
        ModelError: not even the first engine ran it.
    """
    run, rows = run or alone, [rows[i % len(rows)] for i in range(effort.together)]
    tried = tried or list(ways(usable_cores()))
    said: dict[Way, list[dict[str, Any]]] = {way: [] for way in tried}
    failed: dict[Way, str] = {}
    left = list(tried)
    for turn in range(effort.turns):
        for number, way in enumerate(left):
            job = {"folder": str(folder), "way": way.to_data(), "budgets": effort.budgets}
            try:
                said[way].append(run(job | {"rows": rows, "single": effort.single}))
            except ModelError as error:
                failed[way] = str(error)
            done(turn * len(left) + number + 1, effort.turns * len(left))
        left = _near({way: said[way] for way in left if way not in failed}, effort.near)
    whole = [way for way in tried if way not in failed]
    if not whole or whole[0].engine != tried[0].engine:
        raise _not_run(folder, tried[0], next(iter(failed.values())))
    reference = said[whole[0]][0]["decided"]
    return [Trial(way, reason=failed[way]) if way in failed else _trial(way, said[way], reference) for way in tried]


def fastest(found: Sequence[Trial], gain: float = THOROUGH.gain) -> Serving:
    """The way with the lowest latency, and that with the most texts a second.

    Raises:
        ModelError: none is left.
    """
    left = [trial for trial in found if not trial.reason]
    if not left:
        raise ModelError(f"no way to run it is left ({found[0].way}: {found[0].reason})")
    one = _best(left, lambda trial: 1 / trial.ms, gain)  # type: ignore[operator]
    first = sorted(left, key=lambda trial: trial is not one)  # a session for both where that is as fast
    many = _best(first, lambda trial: max(trial.texts_per_s.values()), gain)  # type: ignore[union-attr]
    way = one.way
    return Serving(Way(way.engine, way.precision, way.threads), many.way, many.budget)


def chosen(
    found: Sequence[Trial], judge: Callable[[Way], str], gain: float = THOROUGH.gain
) -> tuple[list[Trial], Serving]:
    """The trials, some of them now with a reason, and the fastest of those that `judge` finds nothing wrong with.

    Raises:
        ModelError: none is left.
    """
    left, passed = list(found), set[tuple[str, str]]()
    while True:
        best = fastest(left, gain)
        for way in (best.latency, best.throughput):
            kind = (way.engine, way.precision)
            if way.engine == DEFAULT or kind in passed:
                continue
            if wrong := judge(way):
                alike = [(t.way.engine, t.way.precision) == kind and not t.reason for t in left]
                left = [replace(t, reason=wrong) if of_kind else t for t, of_kind in zip(left, alike, strict=True)]
                break
            passed.add(kind)
        else:
            return left, best


def amiss(task: Task, reference: np.ndarray, said: np.ndarray, gold: Any = None) -> str:
    """What is wrong with other outputs than ONNX Runtime's, in words; "" if nothing is. gold: labels, if there are."""
    same = agreement(task, said, reference).value
    if same >= SAME:
        return ""
    told = f"{1 - same:.1%} of its answers are others than those of {DEFAULT}"
    if gold is None:
        return f"{told}; with labels in --data it may be seen whether they are worse"
    points = 100 * (task.score(reference, gold) - task.score(said, gold))
    low, _ = difference(task, reference, said, gold)
    return f"{told}, and it costs {points:.1f} points of {task.metric}" if points > MAX_LOSS and low > 0 else ""


def alone(job: Mapping[str, Any], timeout: float = TIMEOUT) -> dict[str, Any]:
    """What a fresh process finds of a job.

    Raises:
        ModelError: it could not, crashed, or took too long; in one line.
    """
    found: dict[str, Any] = ask(MODULE, job, timeout)
    return found


def _not_run(folder: Path, way: Way, why: str) -> ModelError:
    return ModelError(f"{folder}: {way.engine} did not run it ({why}).")


def _trial(way: Way, said: Sequence[Mapping[str, Any]], reference: Sequence[Any]) -> Trial:
    ms = float(np.median([one["ms"] for one in said], axis=0).mean())
    speeds = {int(b): float(np.median([one["texts_per_s"][b] for one in said])) for b in said[0]["texts_per_s"]}
    answers = said[0]["decided"]
    same = sum(a == b for a, b in zip(answers, reference, strict=True)) / len(reference)
    return Trial(way, ms, speeds, same)


def _near(said: Mapping[Way, Sequence[Mapping[str, Any]]], near: float) -> list[Way]:
    """The ways of which the last turn was near the fastest, one text at a time or many."""
    if not said:
        return []
    slow = {way: float(np.mean(turns[-1]["ms"])) for way, turns in said.items()}
    fast = {way: max(turns[-1]["texts_per_s"].values()) for way, turns in said.items()}
    return [way for way in said if slow[way] <= near * min(slow.values()) or near * fast[way] >= max(fast.values())]


def _best(found: Sequence[Trial], speed: Callable[[Trial], float], gain: float) -> Trial:
    """The first that none behind it outruns by more than chance."""
    best = found[0]
    for trial in found[1:]:
        if speed(trial) > gain * speed(best):
            best = trial
    return best
