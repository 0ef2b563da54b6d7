"""A fresh process of the same Python that is asked something: a job in, an answer out, both JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from smidgen.errors import ModelError


def ask(arguments: Sequence[str], job: Mapping[str, Any], timeout: float) -> Any:
    """What `python ARGUMENTS`, which finds the same smidgen, answers on standard output.

    Raises:
        ModelError: it could not, crashed, or took more seconds than `timeout`; in one line.
    """
    try:
        done = subprocess.run(
            [sys.executable, *arguments],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            timeout=timeout,
            env=_environment(),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ModelError(f"took longer than {timeout:g} s and was stopped") from None
    if done.returncode < 0:
        raise ModelError(f"its process crashed (signal {-done.returncode})")
    if done.returncode:
        raise ModelError((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])
    return json.loads(done.stdout)


def _environment() -> dict[str, str]:
    """Ours, so changed that the child finds the same smidgen."""
    found = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in found if path)}
