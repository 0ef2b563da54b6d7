"""What a user should know about a machine before relying on it."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from smidgen.measure.environment import memory_total
from smidgen.runtime.machine import VNNI, features


def disk_free_mb() -> int:
    """Free space where the command runs, in MB of 10^6 bytes."""
    return shutil.disk_usage(Path.cwd()).free // 1_000_000


def advice() -> list[str]:
    """Sentences, the most important first; no network is used."""
    have, found = set(features()), []
    if not have:
        found.append("The system does not tell what the processor can do; timings still hold.")
    elif have & VNNI:
        found.append("int8 has instructions of its own here: expect it to be the fastest on small encoders.")
    elif "avx2" in have:
        found.append(
            "No int8 instructions (VNNI): int8 is smaller, hardly faster, and sums can overflow; set "
            "reduce_range: true for quant.dynamic."
        )
    if have & {"amx_bf16", "avx512_bf16"}:
        found.append("Training runs in bfloat16 here.")
    lacking = [name for name in ("torch", "transformers", "accelerate", "onnx") if not importlib.util.find_spec(name)]
    if lacking:
        found.append(f"For training, {', '.join(lacking)} are missing: pip install 'smidgen[train]'. Predicting works.")
    memory = memory_total()
    if memory is not None and memory < 8000:
        found.append(f"{memory:,} MB of memory is little for training a base-size encoder; lower train.micro_tokens.")
    return found
