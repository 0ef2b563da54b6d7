"""A measured number: never without its unit, its n and what it was measured under."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Number:
    """A value with its 95 % interval; `low` and `high` are None for what is counted and not estimated."""

    name: str
    value: float
    unit: str  # "" for a share or a ratio
    n: int  # rows, calls or files that it comes from
    low: float | None = None
    high: float | None = None
    conditions: Mapping[str, Any] = field(default_factory=dict)

    def to_data(self) -> dict[str, Any]:
        """Plain data for a JSON file."""
        return {**dataclasses.asdict(self), "conditions": dict(self.conditions)}
