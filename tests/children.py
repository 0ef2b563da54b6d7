"""Child processes that start in milliseconds: forked from a server that has the heavy imports behind it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

HEAVY = [
    "pytest",
    "accelerate",
    "transformers.models.auto.modeling_auto",
    "transformers.models.bert.modeling_bert",
    "smidgen.planner",
    "smidgen.runner",
    "smidgen.loop",
    "smidgen.methods.distil.hidden",
    "smidgen.methods.distil.logits",
    "smidgen.methods.export.onnx",
    "smidgen.methods.prune.layers",
    "smidgen.methods.tune.full",
]


def start(target: Callable[..., None], *args: Any) -> BaseProcess:
    """Run `target(*args)` in a process of its own; it must be a function at the top of a test module."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    process = context.Process(target=_alone, args=(target, args), daemon=True)
    process.start()
    return process


def _alone(target: Callable[..., None], args: tuple[Any, ...]) -> None:
    import os

    import torch

    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    target(*args)
