"""The processor: its name, what it can do, and how much of it this process may use."""

from __future__ import annotations

import os
import platform
from functools import lru_cache
from pathlib import Path

FEATURES = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "bf16", "i8mm", "sve"),
)
CPUINFO = Path("/proc/cpuinfo")


def usable_cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu() -> str:
    """The processor's name, or its architecture where the system does not tell."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine() or "unknown"


def features() -> tuple[str, ...]:
    """The instruction sets that matter here, of those the processor has; empty where the system does not tell."""
    info = _cpuinfo()
    present = set((info.get("flags") or info.get("Features") or "").split())
    return tuple(name for name in FEATURES if name in present)


@lru_cache(maxsize=1)
def _cpuinfo() -> dict[str, str]:
    """The first processor of /proc/cpuinfo."""
    try:
        first = CPUINFO.read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
