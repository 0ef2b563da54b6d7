"""Many hands: each stage when what it reads is there, once; a Ray worker that is killed costs nothing but time."""

from __future__ import annotations

import _thread
import os
import pickle
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from commands import command, tree
from folders import LABELS, sentences, write_csv

from smidgen import artefact, budget, shards, teacher
from smidgen import hands as module
from smidgen.artefact import Store, file_hash, open_artefact
from smidgen.cluster import _uninterrupted, cluster
from smidgen.data import Split
from smidgen.errors import ArtefactError, ModelError, NoEffect, OutOfTime
from smidgen.feasibility import start
from smidgen.hands import run, run_all
from smidgen.planner import Plan, plan
from smidgen.recipe import Files, load
from smidgen.runner import Done
from smidgen.runtime.machine import usable_cores
from smidgen.shapes import Job, untrained
from smidgen.source import resolve
from smidgen.tasks import Classify
from smidgen.teacher import label
from smidgen.watch import Silent

TRAIN = {"epochs": 1, "learning_rate": 2e-3, "batch_size": 16, "precision": "float32"}
TEACHER = {"name": "teacher", "methods": {"tune.full": {}}, "train": TRAIN}
OTHER = TEACHER | {"name": "other", "from": "model", "seed": 5}
STUDENT = {
    "name": "student",
    "from": "model",
    "teacher": "teacher",
    "data": "train+unlabeled",
    "methods": {"prune.layers": {"keep": 1}, "distil.logits": {}},
    "train": TRAIN,
}
SMALL = {"name": "small", "from": "student", "methods": {"prune.heads": {"by": "random"}}}


class Hands(Executor):
    """Does what it is given when it is waited for, the oldest first; `seen` has what was given by then."""

    def __init__(self) -> None:
        self.given: list[tuple[Future[Any], Callable[[], Any], str]] = []
        self.seen: list[set[str]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.given.append((future, lambda: fn(*args, **kwargs), args[1].stage.name))
        return future

    def wait(self, running: Any, return_when: str) -> Any:
        if not running:
            return SimpleNamespace(done=set())
        self.seen.append({name for _, _, name in self.given})
        future, work, _ = self.given.pop(0)
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)
        return SimpleNamespace(done={future})


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    made = Hands()
    monkeypatch.setattr(module, "wait", made.wait)
    return made


def planned(model: Path, data: dict[str, str], *stages: dict[str, Any]) -> Plan:
    return plan(load(yaml.safe_dump({"model": str(model), "data": data, "stages": list(stages)}, sort_keys=False)))


def weights(done: list[Done]) -> dict[str, str]:
    """By id, the hash of the weights of each stage; all of them are whole."""
    for one in done:
        open_artefact(one.artefact.path, deep=True)
    return {one.artefact.id: file_hash(one.artefact.path / "model.safetensors") for one in done}


# The order of stages.


def test_a_stage_begins_as_soon_as_what_it_reads_is_there(
    tiny_bert: Path, tiny_data: dict[str, str], tmp_path: Path, hands: Hands
) -> None:
    made = planned(tiny_bert, tiny_data, TEACHER, OTHER, STUDENT, SMALL)
    done = run(made, tmp_path / "many", hands)
    assert hands.seen == [{"teacher", "other"}, {"other", "student"}, {"student"}, {"small"}]
    assert [one.planned for one in done] == list(made.stages)
    assert not any(one.reused for one in done) and all(one.seconds > 0 for one in done)
    assert weights(done) == weights(run(made, tmp_path / "one", None))
    assert not list((tmp_path / "many").glob(".*"))


def test_what_several_plans_have_is_run_once_and_what_is_there_is_used(
    tiny_bert: Path, tiny_data: dict[str, str], tmp_path: Path, hands: Hands
) -> None:
    first, second = (planned(tiny_bert, tiny_data, TEACHER, stage) for stage in (OTHER, STUDENT))
    one, two = run_all([first, second], tmp_path, hands)
    assert isinstance(one, list) and isinstance(two, list)
    assert hands.seen == [{"teacher", "other"}, {"other", "student"}, {"student"}]
    assert one[0] is two[0] and [d.planned.stage.name for d in two] == ["teacher", "student"]
    again = run(planned(tiny_bert, tiny_data, TEACHER, STUDENT, SMALL), tmp_path, hands)
    assert [d.reused for d in again] == [True, True, False] and hands.seen[3:] == [{"small"}]


def test_an_error_of_a_stage_is_the_error_of_the_run(
    tiny_bert: Path, tiny_data: dict[str, str], tmp_path: Path, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> None:
        raise ModelError("no such thing")

    monkeypatch.setattr(module, "run_stage", broken)
    made = planned(tiny_bert, tiny_data, TEACHER, OTHER, STUDENT)
    with pytest.raises(ModelError, match="no such thing"):
        run(made, tmp_path, hands)
    assert hands.seen == [{"teacher", "other"}, {"other"}], "the student, whose teacher there is none of, is not begun"


def test_what_is_measured_in_milliseconds_is_run_here_and_alone(
    tiny_bert: Path, tiny_data: dict[str, str], tmp_path: Path, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = planned(tiny_bert, tiny_data, TEACHER, OTHER, STUDENT)
    monkeypatch.setattr(module, "_times", lambda planned: planned.stage.name == "student")
    assert len(run(made, tmp_path, hands)) == 3
    assert hands.seen == [{"teacher", "other"}, {"other"}]


def test_a_folder_that_is_not_shared_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artefact, "LAG", 2)
    monkeypatch.setattr(artefact.time, "sleep", lambda seconds: None)
    with pytest.raises(ArtefactError, match=r"1a2b: another process made it, and it is not seen here\. Give an --out"):
        Store(tmp_path).wait_for("1a2b")


class Said(Silent):
    """A watch that is sent along."""

    @contextmanager
    def bar(self, name: str, total: float) -> Iterator[Any]:
        if name == "training":
            raise OutOfTime("too long")
        yield SimpleNamespace(to=lambda *args: None)


def test_who_looks_on_in_a_stage_can_stop_it(
    tiny_bert: Path, tiny_data: dict[str, str], tmp_path: Path, hands: Hands
) -> None:
    inside = pickle.loads(pickle.dumps(Said()))
    (late,) = run_all([planned(tiny_bert, tiny_data, TEACHER)], tmp_path, hands, inside=inside)
    assert isinstance(late, OutOfTime) and str(late) == "too long"


def test_after_an_hour_no_stage_is_begun(
    tiny_bert: Path, tiny_data: dict[str, str], tmp_path: Path, hands: Hands
) -> None:
    """Also not one that has waited for a worker until then; what is there already is."""
    run_all([planned(tiny_bert, tiny_data, TEACHER)], tmp_path, hands)
    (late,) = run_all([planned(tiny_bert, tiny_data, TEACHER, OTHER)], tmp_path, hands, begin_by=time.time() - 1)
    assert isinstance(late, OutOfTime) and str(late) == "there was no time left to begin its other"
    (there,) = run_all([planned(tiny_bert, tiny_data, TEACHER)], tmp_path, hands, begin_by=time.time() - 1)
    assert isinstance(there, list) and there[0].reused
    (timely,) = run_all([planned(tiny_bert, tiny_data, OTHER)], tmp_path, hands, begin_by=time.time() + 60)
    assert isinstance(timely, list)


# Labels in parts.


class Mapper(Executor):
    """Does parts of work one after the other; before the first, `meanwhile`."""

    def __init__(self, meanwhile: Callable[[], Any] = lambda: None) -> None:
        self.meanwhile, self.sizes = meanwhile, []

    def map(self, fn: Any, *iterables: Any, timeout: Any = None, chunksize: int = 1) -> Any:
        self.meanwhile()
        for (group,) in zip(*iterables, strict=True):
            self.sizes.append([len(keys) for keys, _ in group])
            yield fn(group)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "SHARD", 4)
    monkeypatch.setattr(teacher, "AT_ONCE", 2)
    monkeypatch.setattr(teacher.os, "getpid", lambda: 1)


def test_labels_made_in_parts_are_the_same_files(
    tiny_classifier: Path, tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = tuple(text for text, _ in sentences(18, seed=3))
    asked = (resolve(str(tiny_classifier)), Classify(LABELS), Split("train", texts, None, None, "here"), ["logits"], 48)
    label(*asked, tmp_path / "one")
    hands = Mapper()
    told: list[tuple[int, int]] = []
    found = label(*asked, tmp_path / "many", lambda done, total: told.append((done, total)), executor=hands)
    assert told == [(8, 18), (10, 18), (18, 18)]
    assert hands.sizes == [[4, 4], [2], [4, 4]]  # another process begins with another group
    assert tree(tmp_path / "many") == tree(tmp_path / "one")
    assert found.rows(np.arange(18), 48)["logits"].shape == (18, 2)

    real, made = teacher.publish, []
    monkeypatch.setattr(teacher, "publish", lambda *args: made.append(args) or real(*args))
    label(*asked, tmp_path / "both", executor=Mapper(lambda: label(*asked, tmp_path / "both")))
    assert len(made) == 5, "what another has made meanwhile is not made again"
    assert tree(tmp_path / "both") == tree(tmp_path / "one")


def test_the_slower_of_two_leaves_the_other_s_shard(tmp_path: Path) -> None:
    keys = np.arange(3, dtype=np.uint64)
    for value in (1.0, 2.0):
        shards.publish(tmp_path, keys, {"logits": np.full((3, 2), value)})
    (shard,) = shards.open_shards(tmp_path)
    assert (shard["logits"] == 1).all() and [p.name for p in tmp_path.iterdir()] == [shards.place(tmp_path, keys).name]


# What is typed.


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("--on slurm", "--on slurm: no such place. Write --on ray, or leave it out"),
        ("--cores 2", "--ray-address and --cores go with --on ray. Add it, or leave them out."),
        ("--on ray", "--on ray: Ray is not installed. Type: pip install 'smidgen[ray]'"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(
    typed: str, said: str, tiny_bert: Path, tiny_data: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    recipe = {"model": str(tiny_bert), "data": tiny_data, "stages": [TEACHER]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    ran = command(f"run {tmp_path}/recipe.yaml --out {tmp_path}/out {typed}")
    assert ran.code == 2 and said in ran.err and not (tmp_path / "out").exists()


def test_a_cluster_that_does_not_answer(
    tiny_bert: Path, tiny_data: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    recipe = {"model": str(tiny_bert), "data": tiny_data, "stages": [TEACHER]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    ran = command(f"run {tmp_path}/recipe.yaml --out {tmp_path}/out --on ray")
    assert ran.code == 2 and not (tmp_path / "out").exists()
    assert f"--ray-address {address}: no Ray cluster answers ([Errno 111] Connection refused). See docs" in ran.err


def test_a_search_prepares_what_it_makes_afterwards(
    tiny_bert: Path, tiny_data: dict[str, str], tmp_path: Path, hands: Hands
) -> None:
    files = Files(tiny_data["train"], tiny_data["dev"])
    search = start(Job(str(tiny_bert), files, budget.read(None, "1GB")), tmp_path, Silent())
    search.executor = hands
    recipes = [untrained(search.job, candidate.shape) for candidate in search.candidates]
    search.prepare(recipes)
    assert hands.seen[0] >= {"onnx", "untrained"}
    made = []
    for recipe in recipes:
        with suppress(NoEffect):  # a tiny model's vocabulary is used up
            made.append(search.make(recipe))
    assert len(made) > 3 and all(done.reused for one in made for done in one)
    told = {stage["id"]: stage["reused"] for stage in search.timing}
    assert not any(told[done.artefact.id] for one in made for done in one)


# Ray.


def workers() -> list[int]:
    """The processes below this one in which Ray runs a stage."""
    parents, found = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if (folder / "cmdline").read_bytes().startswith(b"ray::_stage"):
                found.append(int(folder.name))
        except (OSError, ValueError):
            continue

    def ours(process: int) -> bool:
        return process == os.getpid() or (process in parents and ours(parents[process]))

    return [process for process in found if ours(process)]


def kill_one(stages: Path, student: str, killed: list[int]) -> None:
    """Kill a worker once the student has trained a step: of the stages it runs last, and alone."""
    until = time.monotonic() + 200
    while time.monotonic() < until and not list(stages.glob(f".work-{student}/step-*")):
        time.sleep(0.002)
    for process in workers():
        os.kill(process, signal.SIGKILL)
        killed.append(process)


def test_what_nobody_waits_for_any_more_is_not_begun() -> None:
    """On a real Ray: 40 pieces of 3 s that wait for a core would keep it for a minute."""
    pytest.importorskip("ray")
    with cluster() as many:
        assert many.hands == usable_cores()
        found = many.map(time.sleep, [0.0, *[3.0] * 20 * many.hands])
        next(found)
        found.close()
        began = time.monotonic()
        many.submit(time.sleep, 0.0).result()
        assert time.monotonic() - began < 30


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds Ray's workers in /proc")
def test_a_killed_worker_costs_nothing_but_time(tiny_bert: Path, tiny_data: dict[str, str], tmp_path: Path) -> None:
    """On a real Ray, whose workers also label the student's texts, in two parts."""
    pytest.importorskip("ray")
    unlabeled = write_csv(tmp_path / "unlabeled.csv", sentences(8500, seed=8), labelled=False)
    student = STUDENT | {"train": TRAIN | {"epochs": 0.05}}
    stages = [TEACHER, OTHER, student]
    recipe = {"model": str(tiny_bert), "data": tiny_data | {"unlabeled": unlabeled}, "stages": stages}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    made = plan(load((tmp_path / "recipe.yaml").read_text()))
    expected = weights(run(made, tmp_path / "one", None))

    killed: list[int] = []
    killer = threading.Thread(target=kill_one, args=(tmp_path / "out" / "stages", made.stages[2].id, killed))
    killer.start()
    ran = command(f"run {tmp_path}/recipe.yaml --out {tmp_path}/out --checkpoint-seconds 0 --on ray --json")
    killer.join()
    assert ran.code == 0, ran.err
    assert killed and not any(Path(f"/proc/{process}").exists() for process in killed)
    done = [open_artefact(tmp_path / "out" / "stages" / stage.id, deep=True) for stage in made.stages]
    assert {d.id: file_hash(d.path / "model.safetensors") for d in done} == expected
    (one,), (other,) = ((tmp_path / root).glob("labels-*") for root in ("one", "out/stages"))
    assert len(list(one.iterdir())) == 6 and tree(one) == tree(other)
    assert not list((tmp_path / "out" / "stages").glob(".*"))
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0" and not workers()


def test_an_interrupt_waits_until_an_import_is_over() -> None:
    reached, handler = list[str](), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), _uninterrupted():
        _thread.interrupt_main()
        reached.append("the end")
    assert reached == ["the end"] and signal.getsignal(signal.SIGINT) is handler
