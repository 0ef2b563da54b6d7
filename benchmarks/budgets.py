"""`compress` under three budgets, beside what is made by hand: what `search.py budgets` runs for one set of data."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import byhand
from common import MODEL, ahead, one_by_one, said

from smidgen import api
from smidgen.artefact import write_atomic
from smidgen.data import Data
from smidgen.measure import entries
from smidgen.measure.peers import TorchModel
from smidgen.measure.quality import kept
from smidgen.measure.speed import latency
from smidgen.runtime import load
from smidgen.runtime.folder import deployed_bytes
from smidgen.watch import Silent

SPEEDUPS = {
    "loose": 20,
    "middle": 60,
    "tight": 300,
}  # times the teacher's speed in torch float32, as a limit on the median
LIMIT = "17m"  # for each search, about what the models by hand take; labels, graphs and trainings of one are there for the next
TEACHER = "teacher, torch float32"
ENCODER, WORDS, STATIC = "MiniLM-6, dynamic int8", "TF-IDF", "static vectors"


class Told(Silent):
    """Says what a search is at, and when."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    def say(self, text: str) -> None:
        print(f"  {time.monotonic() - self.began:5.0f} s  {text}", flush=True)


def limits(teacher: TorchModel, splits: Data, home: Path) -> dict[str, float]:
    """Milliseconds of each budget, measured once, so that a search that was stopped goes on with the same."""
    file = home / "limits.json"
    if not file.is_file():
        found = latency({TEACHER: one_by_one(teacher)}, list(splits.dev.texts), calls=100)[TEACHER].p50_ms
        write_atomic(file, json.dumps({name: float(f"{found / times:.2g}") for name, times in SPEEDUPS.items()}))
    return dict(json.loads(file.read_text(encoding="utf-8")))


def searched(teacher: Path, files: Mapping[str, Any], ms: float, home: Path, name: str, **more: Any) -> dict[str, Any]:
    """The report of one budget. All budgets share a store."""
    settings: dict[str, Any] = {"time_limit": LIMIT, "students": [MODEL], **more}
    out = home / name
    report = api.compress(
        str(teacher),
        **files,
        max_latency=f"p50={ms:g}ms",
        out=out,
        store=home / "stages",
        watch=Told(),
        command=f"smidgen compress TEACHER --student {MODEL} --max-latency p50={ms:g}ms --time-limit {settings['time_limit']}",
        **settings,
    )
    print(f"{name}: {report['verdict']}, {report['reason']} {report['timing']['seconds']:.0f} s", flush=True)
    return report


def by_hand(splits: Data, home: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The models, and what is to be told of each."""
    made = {
        ENCODER: byhand.encoder(splits, MODEL, home / f"hand-{home.name}"),
        WORDS: byhand.words(splits),
        STATIC: byhand.static(splits, MODEL, home.parent / "tokens"),
    }
    for name, (_, told) in made.items():
        print(f"by hand: {name}, {told['chosen']}, {told['seconds']:.0f} s", flush=True)
    return {name: model for name, (model, _) in made.items()}, {name: told for name, (_, told) in made.items()}


def compared(
    splits: Data,
    teacher: TorchModel,
    hands: Mapping[str, Any],
    told: Mapping[str, dict[str, Any]],
    reports: Mapping[str, dict[str, Any]],
    home: Path,
    calls: int,
) -> dict[str, Any]:
    """All that there is, timed in one run and scored on test; each winner against each model by hand."""
    task, test = splits.task, splits.test
    assert test is not None and test.labels is not None
    winners = {name: load(home / name / "winner") for name, report in reports.items() if report["winner"]}
    everyone = {TEACHER: teacher, **hands, **winners}
    found = latency({name: one_by_one(model) for name, model in everyone.items()}, list(test.texts), calls)
    answers = {name: model.outputs(test.texts) for name, model in everyone.items() if model is not teacher}
    answers[TEACHER] = said(home.parent, teacher, test)
    right = {name: task.correct(outputs, test.labels) for name, outputs in answers.items()}

    def numbers(name: str) -> dict[str, Any]:
        share = kept(task, answers[name], answers[TEACHER], test.labels)
        mean = name in winners and "cascade" in (reports[name]["winner"]["recipe"] or {})
        return {
            "quality": entries.quality_data(task, answers[name], test),
            "kept": {"value": share.value, "low": share.low, "high": share.high},
            "ms": found[name].mean_ms if mean else found[name].p50_ms,
            "speedup": entries.speedup_data(found[name], found[TEACHER], mean),
        }

    def against(name: str, hand: str) -> dict[str, Any]:
        mean = "cascade" in (reports[name]["winner"]["recipe"] or {})
        points = ahead(right[name][None], right[hand][None])
        times = entries.speedup_data(found[name], found[hand], mean)
        return {"hand": hand, "points": points, "times": times, "verdict": verdict(points, times)}

    runs = []
    for name, report in reports.items():
        row = {
            "budget": name,
            "asked": SPEEDUPS.get(name),
            "command": report["command"],
            "verdict": report["verdict"],
            "reason": report["reason"],
            "seconds": report["timing"]["seconds"],
            "compared": (report["choice"] or {}).get("compared"),
            "notes": report["notes"],
        }
        if name in winners:
            row |= {"winner": report["winner"]["name"], "size_mb": deployed_bytes(home / name / "winner") / 1e6}
            row |= numbers(name) | {"against": [against(name, hand) for hand in hands]}
        runs.append(row)
    return {
        "n": len(test),
        "train": len(splits.train),
        "unlabeled": len(splits.unlabeled) if splits.unlabeled is not None else 0,
        "teacher": numbers(TEACHER),
        "hands": [{"name": name, **told[name], **numbers(name)} for name in hands],
        "runs": runs,
        "wanted": "better at no lower speed, or faster at no lower quality, each time",
    }


WON, LOST = "won", "lost"


def verdict(points: Mapping[str, float], times: Mapping[str, float]) -> str:
    """What is said of two models by the intervals of their difference in quality and of the ratio of their speeds."""
    better, worse = points["low"] > 0, points["high"] < 0
    faster, slower = times["low"] > 1, times["high"] < 1
    if (better and not slower) or (faster and not worse):
        return WON
    if (worse and not faster) or (slower and not better):
        return LOST
    if better or worse:
        return "better and slower" if better else "faster and worse"
    return "not resolved"
