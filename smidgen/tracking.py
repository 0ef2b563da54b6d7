"""Trackers that a training is logged to, by way of Accelerate; none unless one is asked for.

A stage is one run of the project `smidgen`, called by its name and its id; nothing of it is in the id. A stage that
goes on after it was stopped goes on in its run, save in MLflow, where it is another run of the same name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

# Trackers send what is logged where they were told to, and nothing about their use to their makers.
QUIET = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
    "GRADIO_ANALYTICS_ENABLED": "False",
}


def opened(names: Iterable[str], folder: Path, run: str, id: str) -> list[GeneralTracker]:
    """The trackers of one stage; those that write files write them into `folder`."""
    chosen = tuple(names)
    if not chosen:
        return []
    from accelerate import tracking

    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    made: dict[str, Callable[[], Any]] = {
        "tensorboard": lambda: tracking.TensorBoardTracker(run, folder),
        "mlflow": lambda: tracking.MLflowTracker("smidgen", run_name=run),
        "wandb": lambda: tracking.WandBTracker("smidgen", name=run, id=id, resume="allow", dir=str(folder)),
        "trackio": lambda: tracking.TrackioTracker("smidgen", name=run, resume="allow"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    return [made[name]() for name in chosen]
