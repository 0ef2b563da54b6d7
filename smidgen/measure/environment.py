"""What a measurement was made on: processor, memory and versions; no name of a machine and no path."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

from smidgen.runtime.machine import cpu, features, usable_cores

MEMINFO = Path("/proc/meminfo")  # Linux
PACKAGES = (
    *("smidgen", "numpy", "onnxruntime", "openvino", "tokenizers", "torch", "transformers", "accelerate", "datasets"),
    *("safetensors", "peft", "onnx", "onnxscript", "scikit-learn", "optuna", "ray"),
)


def environment() -> dict[str, Any]:
    """Plain data: `cpu`, `cores`, `features`, `memory_mb`, `platform`, `python`, `versions`, `commit`."""
    return {
        "cpu": cpu(),
        "cores": usable_cores(),
        "features": list(features()),
        "memory_mb": memory_total(),
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions(),
        "commit": commit(),
    }


def memory_total() -> int | None:
    """The machine's memory in megabytes of 1,000,000 bytes."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1_000_000
    except (AttributeError, ValueError, OSError):
        return None


def memory_free() -> int | None:
    """What of it a new process could have, as the system sees it; None where it does not tell."""
    try:
        lines = MEMINFO.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")) // 1_000_000
    except (OSError, StopIteration):
        return None


def versions() -> dict[str, str]:
    """Installed packages that bear on a result, without importing them."""
    return {name: found for name in PACKAGES if (found := _version(name))}


@lru_cache
def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


@lru_cache(maxsize=1)
def commit() -> str | None:
    """The commit of the checkout that smidgen runs from, with `+` if its files were changed; None outside one."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    head, changes = _git(root, "rev-parse", "--short=12", "HEAD"), _git(root, "status", "--porcelain", "smidgen")
    return f"{head}{'+' if changes else ''}" if head else None


def _git(root: Path, *command: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *command], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
