"""Run plans with many hands: an executor of the standard library, such as `smidgen.cluster.Ray`.

Stages have nothing in common but folders, so any that do not wait for each other may run at once, anywhere that sees
these folders. One process alone, which is the default, goes through a plan in order: that is `smidgen.runner`.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from functools import partial
from pathlib import Path

from smidgen.artefact import Storage, Store, alone
from smidgen.errors import InputError, OutOfTime, SmidgenError
from smidgen.planner import Plan, Planned
from smidgen.runner import Done, describe, run_stage
from smidgen.runner import run as in_order
from smidgen.watch import Silent, Watch


def run(
    plan: Plan,
    root: Path,
    executor: Executor | None,
    watch: Watch | None = None,
    checkpoint_seconds: float = 60.0,
    trackers: tuple[str, ...] = (),
    far: Storage | None = None,
    inside: Watch | None = None,
) -> list[Done]:
    """Run every stage of a plan, as `smidgen.runner.run` does, which without an executor does it."""
    if executor is None:
        return in_order(plan, root, watch, checkpoint_seconds, trackers, far)
    (found,) = run_all([plan], root, executor, watch, checkpoint_seconds, trackers, far, inside)
    if isinstance(found, SmidgenError):
        raise found
    return found


def run_all(
    plans: Sequence[Plan],
    root: Path,
    executor: Executor,
    watch: Watch | None = None,
    checkpoint_seconds: float = 60.0,
    trackers: tuple[str, ...] = (),
    far: Storage | None = None,
    inside: Watch | None = None,
    begin_by: float = math.inf,
) -> list[list[Done] | SmidgenError]:
    """Run the stages of several plans, each as soon as what it reads is there, as many at a time as there are hands.

    A stage that several plans have is run once. What is cut to milliseconds is run here, with no other stage beside it.

    Args:
        watch: hears which stages are begun, and how many are done.
        inside: looks on in each stage, wherever that is; it goes there as a copy.
        begin_by: the hour, as `time.time()` gives it, after which no stage is begun.

    Returns:
        What `run` does, of each plan, or the error of one of its stages; what does not need that stage is run all the
        same.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("torchrun and accelerate launch start processes, --on ray too. Use one of them.")
    watch, store = watch or Silent(), Store(root.absolute(), executor, far)
    wanted = {planned.id: (plan, planned) for plan in plans for planned in plan.stages}
    done: dict[str, Done] = {}
    failed: dict[str, SmidgenError] = {}
    running: dict[Future[float], str] = {}

    def end(id: str, seconds: Callable[[], float]) -> None:
        try:
            took = seconds()
            done[id] = Done(wanted[id][1], store.wait_for(id), False, took)
        except SmidgenError as error:
            failed[id] = error

    with alone(root), watch.bar("stages", len(wanted)) as bar:
        store.sweep()
        while len(done) + len(failed) < len(wanted):
            for id, (plan, planned) in wanted.items():
                needed = _reads(planned) & wanted.keys()
                if id in {*done, *failed, *running.values()} or not needed <= done.keys() | failed.keys():
                    continue
                work = (plan, planned, store, checkpoint_seconds, trackers, inside or Silent(), begin_by)
                if lacking := needed & failed.keys():
                    failed[id] = failed[min(lacking)]
                elif (found := store.find(id)) is not None:
                    done[id] = Done(planned, found, True, 0.0)
                elif not _times(planned):
                    watch.say(f"{planned.stage.name}: {describe(planned)}")
                    running[executor.submit(_stage, *work)] = id
                elif not running:
                    watch.say(f"{planned.stage.name}, on this machine: {describe(planned)}")
                    end(id, partial(_stage, *work))
            bar.to(len(done) + len(failed))
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                end(running.pop(future), future.result)
        store.sweep()
    return [_all_of(plan, done, failed) for plan in plans]


def _all_of(plan: Plan, done: dict[str, Done], failed: dict[str, SmidgenError]) -> list[Done] | SmidgenError:
    broken = next((failed[planned.id] for planned in plan.stages if planned.id in failed), None)
    return broken or [done[planned.id] for planned in plan.stages]


def _reads(planned: Planned) -> set[str]:
    """What a stage reads: ids of other stages, and names of models and splits."""
    return {planned.source, *planned.teachers, *planned.parts}


def _times(planned: Planned) -> bool:
    """Does what a stage leaves depend on measured time?"""
    return any("machine" in method.reads() for method in planned.methods)


def _stage(
    plan: Plan,
    planned: Planned,
    store: Store,
    checkpoint_seconds: float,
    trackers: tuple[str, ...],
    watch: Watch,
    begin_by: float,
) -> float:
    """Run a stage, wherever this is; the seconds that it took. One that was run before its worker was lost is there."""
    started = time.monotonic()
    store.root.mkdir(parents=True, exist_ok=True)
    for id in sorted(_reads(planned) & {other.id for other in plan.stages}):
        store.wait_for(id)
    if store.find(planned.id) is None:
        if time.time() > begin_by:
            raise OutOfTime(f"there was no time left to begin its {planned.stage.name}")
        run_stage(plan, planned, store, watch, checkpoint_seconds, trackers)
    return time.monotonic() - started
