"""How much memory: the peak of a fresh process that loads a folder and predicts, or of this one since a moment.

On Linux the peak is VmHWM of /proc and not `ru_maxrss`: the latter survives exec, so that a child of a large process
would report its parent. Elsewhere `ru_maxrss` is all there is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smidgen.errors import ModelError
from smidgen.measure.child import ask
from smidgen.measure.number import Number

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # Linux
SCRIPT = """
import json, sys
def peak():
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
import numpy, onnxruntime, tokenizers, smidgen.runtime
from smidgen.errors import SmidgenError
job = json.load(sys.stdin)
base = peak()
try:
    model = smidgen.runtime.load(job["folder"], job["threads"], job["engine"], job["precision"])
    more = {name: job[name] for name in ("task", "batch_tokens") if job[name]}
    if not job["task"]:  # a folder may run single texts otherwise than many
        model.predict(job["texts"][:1], job["pairs"] and job["pairs"][:1])
    model.predict(job["texts"], job["pairs"], **more)
except SmidgenError as error:
    sys.exit(str(error))
print(json.dumps([base, peak()]))
"""


def memory(
    folder: Path | str,
    texts: Sequence[Any],
    pairs: Sequence[str] | None = None,
    threads: int | None = None,
    batch_tokens: int | None = None,
    timeout: float = 600,
    task: str | Sequence[str] | None = None,
    engine: str | None = None,
    precision: str | None = None,
) -> Number:
    """Peak resident memory of a new Python that loads `folder` and predicts on `texts`, first one and then all of them,
    as the folder is served, in MB of 1,000,000 bytes.

    `conditions` has `baseline_mb`, the same process after its imports and before it loads, and `model_mb`, the
    difference.

    Args:
        task: of a bundle, the task of all texts or of each.
        threads, engine, precision: as `smidgen.load` takes them.
        batch_tokens: as `predict` takes it; None = as the folder says.

    Raises:
        ModelError: the process could not load the folder or predict.
    """
    job = {
        "folder": str(Path(folder).absolute()),
        "texts": list(texts),
        "pairs": None if pairs is None else list(pairs),
        "threads": threads,
        "engine": engine,
        "precision": precision,
        "batch_tokens": batch_tokens,
        "task": task if task is None or isinstance(task, str) else list(task),
    }
    try:
        base, peak = (value / 1e6 for value in ask(["-P", "-c", SCRIPT], job, timeout))
    except ModelError as error:
        raise ModelError(f"memory of {folder} could not be measured: {error}") from None
    conditions = {
        "baseline_mb": round(base, 1),
        "model_mb": round(peak - base, 1),
        "threads": threads,
        "batch_tokens": batch_tokens,
    }
    return Number("memory_mb", round(peak, 1), "MB", len(texts), conditions=conditions)


def forget_peak() -> None:
    """Begin to watch the peak memory of this process anew; what is free is given back to the system first."""
    import ctypes
    import gc

    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        CLEAR.write_text("5")
    if cuda := _cuda():
        cuda.reset_peak_memory_stats()


def peak_mb() -> float | None:
    """The peak since `forget_peak`, in MB of 1,000,000 bytes: of the GPU where there is one, else of the whole process.

    None where the system does not tell.
    """
    if cuda := _cuda():
        return round(cuda.max_memory_allocated() / 1e6, 1)
    with contextlib.suppress(OSError, StopIteration):
        lines = STATUS.read_text().splitlines()
        return round(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")) / 1e6, 1)
    return None


def _cuda() -> Any:
    import torch

    return torch.cuda if torch.cuda.is_available() else None
