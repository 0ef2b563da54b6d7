"""One realistic report.json, and the same with no winner."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

SAMPLE: dict[str, Any] = json.loads(Path(__file__).with_name("sample_report.json").read_text(encoding="utf-8"))


def sample() -> dict[str, Any]:
    """A copy to change."""
    return copy.deepcopy(SAMPLE)


def lost() -> dict[str, Any]:
    """No candidate keeps to the budget."""
    found = sample() | {"verdict": "not_met", "winner": None, "reason": "Quality binds; nearest: 2 blocks, int8."}
    del found["candidates"][0]
    return found


def missed() -> dict[str, Any]:
    """The candidate that was chosen on dev misses the budget on test."""
    reason = "3 blocks, int8 fits on dev but not in the end: quality is 98.9% of the least that 97%teacher allows."
    found = sample() | {"verdict": "not_met", "winner": None, "reason": reason}
    found["candidates"][0]["numbers"]["quality_kept"] = {"value": 0.959, "low": 0.947, "high": 0.971, "n": 1821}
    return found


def untested() -> dict[str, Any]:
    """No test set was given, and too few calls for p99."""
    found = sample()
    found["data"]["test"] = None
    for entry in (found["teacher"], found["winner"], *found["candidates"], *found["baselines"]):
        entry["numbers"] |= {"quality": None, "quality_kept": None, "agreement": None}
        entry["numbers"]["latency"]["p99_ms"] = None
    return found
