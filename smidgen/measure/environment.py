"""What a measurement was made on: processor, memory and versions; no name of a machine and no path."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

from smidgen.runtime.instructions import cpuinfo, instructions
from smidgen.runtime.model import usable_cores

FEATURES = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16", "amx_fp16"),
    *("asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve"),
)
PACKAGES = (
    *("smidgen", "numpy", "onnxruntime", "tokenizers", "torch", "transformers", "accelerate", "datasets"),
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


def cpu() -> str:
    """The processor's name, or its architecture where the system does not tell."""
    return cpuinfo().get("model name") or platform.processor() or platform.machine() or "unknown"


def features() -> tuple[str, ...]:
    """The instruction sets that matter here, of those the processor has; empty where the system does not tell."""
    present = instructions()
    return tuple(name for name in FEATURES if name in present)


def memory_total() -> int | None:
    """The machine's memory in megabytes of 1,000,000 bytes."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1_000_000
    except (AttributeError, ValueError, OSError):
        return None


def versions() -> dict[str, str]:
    """Installed packages that bear on a result, without importing them."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


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
