"""From a budget to the best model.

1. Every shape is built with untrained weights, exported and timed, text in to label out: latency and size do not
   depend on what the weights are. What the budget forbids is never trained.
2. The teacher is trained, or taken as it stands; the most promising shapes that fit learn from it.
3. One winner is chosen on dev. Test is read once, after that, for the winner, the teacher and the baselines.

Every model on the way is a recipe run through `smidgen.runner`, so what is on disk is not made again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from smidgen.artefact import write_atomic
from smidgen.budget import Budget, least_quality, over
from smidgen.caveats import seen, unresolved
from smidgen.data import Data
from smidgen.errors import InputError, ModelError, SmidgenError
from smidgen.hands import run, run_all
from smidgen.measure import entries
from smidgen.measure.memory import memory
from smidgen.measure.peers import TfIdf, TfIdfs, TorchModel, UsualTag
from smidgen.measure.size import parameters
from smidgen.planner import plan
from smidgen.recipe import Recipe, to_data
from smidgen.runner import Done
from smidgen.runtime import load
from smidgen.runtime.folder import deployed_bytes
from smidgen.runtime.machine import usable_cores
from smidgen.shapes import Job, Shape, distilled, plain, shapes, untrained
from smidgen.source import Source, need_anatomy, resolve
from smidgen.splits import Split
from smidgen.tasks import Classify, Several, Tag, Task
from smidgen.watch import Watch

Entry = dict[str, Any]
# A head of another kind, as of pretraining, is dropped without a word.
ANSWERING = ("classify", "several", "tag", "answer")


@dataclass(eq=False)
class Candidate:
    """A shape on its way through the search."""

    shape: Shape
    entry: Entry
    folder: Path | None = None
    logits: np.ndarray | None = None  # on dev


@dataclass
class Search:
    """What a search has found so far."""

    job: Job
    out: Path
    watch: Watch
    model: Source
    data: Data
    candidates: list[Candidate] = field(default_factory=list)
    teacher: Entry = field(default_factory=lambda: entries.entry("teacher", "teacher"))
    teacher_folder: Path | None = None
    teacher_dev: np.ndarray | None = None
    baselines: list[Entry] = field(default_factory=list)
    timing: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seen: dict[str, Any] | None = None  # rows of test that are nearly rows of train
    started: float = field(default_factory=time.monotonic)
    trackers: tuple[str, ...] = ()
    executor: Executor | None = None  # who runs the stages; None = this process

    @property
    def root(self) -> Path:
        return self.out / "stages"

    def make(self, recipe: Recipe, checkpoint_seconds: float = 60.0) -> list[Done]:
        """Run a recipe; its stages join the lineage of the report."""
        done = run(plan(recipe, self.data), self.root, self.executor, self.watch, checkpoint_seconds, self.trackers)
        return self._told(recipe, done)

    def prepare(self, recipes: Iterable[Recipe]) -> None:
        """Where there are many hands, run the stages of several recipes at a time; `make` then finds them on disk, and
        meets what is wrong with one of them."""
        if self.executor is None:
            return
        wanted = [plan(recipe, self.data) for recipe in recipes]
        made = run_all(wanted, self.root, self.executor, self.watch, trackers=self.trackers)
        for one, done in zip(wanted, made, strict=True):
            if not isinstance(done, SmidgenError):
                self._told(one.recipe, done)

    def _told(self, recipe: Recipe, done: list[Done]) -> list[Done]:
        known = {stage["id"] for stage in self.timing}
        for one in done:
            if one.artefact.id not in known:
                self.timing.append(
                    {
                        "id": one.artefact.id,
                        "name": f"{one.planned.stage.name} ({recipe.name})",
                        "seconds": round(one.seconds, 2),
                        "reused": one.reused,
                    }
                )
        return done


def start(job: Job, out: Path, watch: Watch) -> Search:
    """Check everything that was given, before anything is written.

    Raises:
        InputError: the model, the data or a setting; the message says which.
    """
    model = resolve(job.model)
    students = [resolve(reference) for reference in job.students]
    for source in (model, *students):
        need_anatomy(source)
        if source.head not in ("", job.task) and source.head in ANSWERING:
            raise ModelError(
                f"{source.reference}: has a head for the task {source.head}, the task is {job.task}. Type --task "
                f"{source.head} with such data, or give a model that was trained to {job.task}, or a bare encoder."
            )
    for depth in job.depths:
        if not 1 <= depth <= model.blocks:
            raise InputError(f"--depth {depth}: {job.model} has {model.blocks} blocks. Give a number from 1 to that.")
    all_shapes = shapes(model, students, job.depths)
    data: Data | None = None
    for shape in {shape.model: shape for shape in all_shapes}.values():  # one of each model
        data = plan(replace(distilled(job, model, shape), name="what was given"), data).data
    assert data is not None
    return Search(job, out, watch, model, data, [_candidate(shape) for shape in all_shapes], notes=_notes(data))


def feasible(search: Search) -> None:
    """Time and weigh every shape with untrained weights; mark what the budget forbids."""
    job, watch = search.job, search.watch
    watch.say(f"Building {len(search.candidates)} shapes with untrained weights, to see what fits the budget")
    search.prepare(untrained(job, candidate.shape) for candidate in search.candidates)
    with watch.bar("building", len(search.candidates)) as bar:
        for i, candidate in enumerate(search.candidates):
            candidate.folder = search.make(untrained(job, candidate.shape))[-1].artefact.path
            bar.to(i + 1, candidate.shape.name)
    folders = {c.shape.name: c.folder for c in search.candidates if c.folder is not None}
    measured = _remembered(search, folders) or _measure_shapes(search, folders)
    for candidate in search.candidates:
        candidate.entry["numbers"] |= measured[candidate.shape.name]
        broken = over(job.budget, candidate.entry["numbers"], None, "dev_quality")
        if broken:
            candidate.entry |= {"status": "infeasible", "reason": _broken_words(job.budget, candidate.entry, broken)}


def train_finalists(search: Search) -> None:
    """Train the teacher and the best shapes that fit; judge all of them on dev."""
    job = search.job
    chosen = finalists(search.candidates, job)
    if not chosen:
        return
    _make_teacher(search)
    if not _has_learnt(search):
        for candidate in search.candidates:
            candidate.entry["reason"] = candidate.entry["reason"] or "fits, but its teacher has learnt nothing yet"
        return
    if not _only_quality(job.budget):
        fit = [c.shape for c in search.candidates if c.shape.body in chosen and c.entry["status"] != "infeasible"]
        search.prepare(distilled(job, search.model, shape) for shape in fit)
    for body in chosen:
        limit = job.budget.time_limit_s
        trained = [c for c in search.candidates if c.logits is not None]
        if limit is not None and trained and time.monotonic() - search.started > limit:
            search.notes.append(f"The time limit of {limit:g} s was reached before {body} was trained.")
            break
        for candidate in search.candidates:
            if candidate.shape.body == body and candidate.entry["status"] != "infeasible":
                _train(search, candidate)
        if _only_quality(job.budget) and choose(search) is not None:
            break


def finalists(candidates: Iterable[Candidate], job: Job) -> list[str]:
    """Which bodies to train, in order: the deepest that fit, or from the shallowest up where only quality is asked."""
    fit = list(dict.fromkeys(c.shape.body for c in candidates if c.entry["status"] != "infeasible"))
    return fit[::-1] if _only_quality(job.budget) else fit[: job.finalists]


def choose(search: Search, passed_over: Sequence[Candidate] = ()) -> Candidate | None:
    """The winner by dev: among those that keep to the budget the best, or the fastest of those that cannot be told from
    the best (within one standard error); where only a quality is asked, the fastest.
    """
    fit = [
        c for c in search.candidates if c.logits is not None and c not in passed_over and not _over_on_dev(search, c)
    ]
    if not fit:
        return None
    if not _only_quality(search.job.budget):
        best = max((c.entry["numbers"]["dev_quality"] for c in fit), key=lambda q: q["value"])
        error = (best["high"] - best["low"]) / (2 * 1.96)
        fit = [c for c in fit if c.entry["numbers"]["dev_quality"]["value"] >= best["value"] - error]
    return min(fit, key=lambda c: c.entry["numbers"]["latency"]["p50_ms"])


def decide(search: Search) -> tuple[Candidate | None, dict[str, Any]]:
    """The winner, and the peers that it was timed beside. One that breaks the budget when it is timed again, beside
    them, makes way for the next best.
    """
    passed_over: list[Candidate] = []
    while True:
        winner = choose(search, passed_over)
        models = baselines(search, winner)
        time_trained(search, models)
        if winner is None or not _over_on_dev(search, winner):
            return winner, models
        passed_over.append(winner)


def time_trained(search: Search, extra: Mapping[str, Any]) -> None:
    """Time everything that was trained beside the teacher and the baselines, in one run."""
    job = search.job
    models: dict[str, Any] = dict(extra)
    for candidate in search.candidates:
        if candidate.logits is not None:
            assert candidate.folder is not None
            models[candidate.shape.name] = load(candidate.folder)
    texts = entries.timed_texts(search.data.dev, job.seed)
    with search.watch.bar("timing", 1) as bar:
        found, speed = entries.time_all(models, texts, job.calls)
        bar.to(1)
    named = {c.shape.name: c.entry for c in search.candidates} | {e["name"]: e for e in search.baselines}
    for name, timed in found.items():
        entry = search.teacher if name == "teacher" else named[name]
        threads = getattr(models[name], "threads", usable_cores())
        entry["numbers"]["latency"] = entries.latency_data(timed, threads)
        entry["numbers"]["throughput"] = speed[name]
        if name != "teacher" and "teacher" in found:
            entry["numbers"]["speedup"] = entries.speedup_data(timed, found["teacher"])


def baselines(search: Search, winner: Candidate | None) -> dict[str, Any]:
    """The peers that a winner is shown beside, ready to time: what needs no encoder, the teacher in int8, and the
    winner's shape without distillation."""
    job, task = search.job, search.data.task
    models: dict[str, Any] = {}
    assert search.teacher_folder is not None
    search.baselines.clear()
    models["teacher"] = TorchModel(search.teacher_folder, task)
    search.teacher["numbers"]["parameters"] = models["teacher"].parameters
    simple = _without_encoder(search.data.train, task, job.seed)
    if simple is not None:
        name, model = simple
        models[name] = model
        entry = entries.entry(name, "baseline")
        entry["numbers"] |= {"size_mb": model.size_mb, "parameters": model.parameters}
        search.baselines.append(entry)
    whole = Shape("", search.model.blocks, search.model.blocks, "int8")
    if not any(c.shape == whole and c.logits is not None for c in search.candidates):
        _add_folder(search, models, "teacher, int8", distilled(job, search.model, whole))
    if winner is not None and not _is_teacher(winner.shape):
        _add_folder(search, models, f"{winner.shape.name}, without distillation", plain(job, winner.shape))
    return models


def read_test(search: Search, winner: Candidate | None, models: Mapping[str, Any]) -> None:
    """The one reading of test: the teacher, the winner and the baselines."""
    test, task = search.data.test, search.data.task
    if test is None:
        search.notes.append("No test set was given: qualities are of dev, which the winner was chosen on.")
        return
    teacher = models["teacher"].outputs(test.texts, test.pairs)
    search.teacher["numbers"]["quality"] = entries.quality_data(task, teacher, test)
    said = {"teacher": teacher}
    judged = [(e, models[e["name"]]) for e in search.baselines]
    if winner is not None:
        assert winner.folder is not None
        judged.insert(0, (winner.entry, load(winner.folder)))
    for entry, model in judged:
        said[entry["name"]] = logits = model.outputs(test.texts, test.pairs)
        entry["numbers"]["quality"] = entries.quality_data(task, logits, test)
        entry["numbers"] |= entries.compared_data(task, logits, teacher, test)
    search.seen, told = seen(task, test, search.data.train, said)
    search.notes += told
    if winner is not None:
        least = least_quality(search.job.budget, search.teacher["numbers"]["quality"]["value"])
        search.notes += unresolved(task, test, said[winner.entry["name"]], teacher, least)


def measure_memory(search: Search, winner: Candidate | None) -> None:
    """Peak memory of a fresh process that loads and predicts: the winner, and baselines that are folders."""
    folders = [(e, search.out / e["path"]) for e in search.baselines if e["path"]]
    if winner is not None and winner.folder is not None:
        folders.append((winner.entry, winner.folder))
    for entry, folder in folders:
        entry["numbers"]["memory_mb"] = _memory(folder, search)


def verdict(search: Search, winner: Candidate | None) -> tuple[str, str]:
    """`met` or `not_met`, and one sentence: for `not_met` the binding constraint and the nearest candidate."""
    budget = search.job.budget
    key = "quality" if search.data.test is not None else "dev_quality"
    if winner is not None:
        quality = search.teacher["numbers"][key]
        broken = over(budget, winner.entry["numbers"], quality["value"] if quality else None, key)
        if not broken:
            return "met", f"{winner.shape.name} keeps to the budget."
        return (
            "not_met",
            f"{winner.shape.name} fits on dev but not in the end: {_broken_words(budget, winner.entry, broken)}",
        )
    if not _has_learnt(search):
        return (
            "not_met",
            f"The teacher's {search.data.task.metric} on dev is 0, so there is nothing to keep. Train it longer "
            "(--teacher-epochs), on more data, or check the labels.",
        )
    return "not_met", nearest(search)


def nearest(search: Search) -> str:
    """Which candidate comes nearest to the budget, and what stands against it."""
    found = []
    for candidate in search.candidates:
        broken = _over_on_dev(search, candidate)
        if broken:
            found.append((max(broken.values()), candidate, broken))
    if not found:
        return "No candidate was trained."
    _, candidate, broken = min(found, key=lambda item: item[0])
    binding = max(broken, key=lambda name: broken[name])
    return (
        f"Nothing fits the budget. The binding constraint is {binding}; nearest is {candidate.shape.name}: "
        f"{_broken_words(search.job.budget, candidate.entry, broken)}"
    )


# Parts of the steps above.


def _without_encoder(train: Split, task: Task, seed: int) -> tuple[str, TfIdf | TfIdfs | UsualTag] | None:
    """The name of the simple baseline of a task, and the baseline; None where there is none."""
    if isinstance(task, Classify):
        return "TF-IDF + logistic regression", TfIdf(train, task, seed)
    if isinstance(task, Several):
        return "TF-IDF + logistic regression, one a task", TfIdfs(train, task, seed)
    return ("most frequent tag of each word", UsualTag(train, task)) if isinstance(task, Tag) else None


def _notes(data: Data) -> list[str]:
    """What a reader has to know of the task's baselines."""
    if data.task.name != "answer":
        return []
    split = data.dev if data.test is None else data.test
    assert split.labels is not None
    share = data.task.counted(split.labels)["without"] / len(split)
    note = "No baseline without an encoder is shown: none points into a context."
    if share:
        note += (
            f" {share:.1%} of the questions of {split.name} have no answer: to answer none of them scores that much."
        )
    return [note]


def _has_learnt(search: Search) -> bool:
    quality = search.teacher["numbers"]["dev_quality"]
    return quality is None or quality["value"] > 0


def _candidate(shape: Shape) -> Candidate:
    recipe = {"model": shape.model or "the model given", "blocks": shape.blocks, "precision": shape.precision}
    return Candidate(shape, entries.entry(shape.name, "not_trained", recipe=recipe))


def _over_on_dev(search: Search, candidate: Candidate) -> dict[str, float]:
    dev = search.teacher["numbers"]["dev_quality"]
    return over(search.job.budget, candidate.entry["numbers"], dev["value"] if dev else None, "dev_quality")


def _is_teacher(shape: Shape) -> bool:
    return not shape.model and shape.blocks == shape.whole


def _only_quality(budget: Budget) -> bool:
    return budget.quality is not None and (budget.latency_ms, budget.size_mb, budget.memory_mb) == (None, None, None)


def _measure_shapes(search: Search, folders: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    job = search.job
    models = {name: load(folder) for name, folder in folders.items()}
    with search.watch.bar("timing shapes", 1) as bar:
        found, speed = entries.time_all(models, entries.timed_texts(search.data.dev, job.seed), job.calls)
        bar.to(1)
    measured = {}
    for name, folder in folders.items():
        measured[name] = {
            "latency": entries.latency_data(found[name], models[name].threads),
            "throughput": speed[name],
            "size_mb": deployed_bytes(folder) / 1e6,
            "parameters": int(parameters(folder).value),
            "memory_mb": _memory(folder, search) if job.budget.memory_mb is not None else None,
        }
    write_atomic(_memo(search), json.dumps({"of": _ids(folders), "measured": measured}))
    return measured


def _remembered(search: Search, folders: Mapping[str, Path]) -> dict[str, dict[str, Any]] | None:
    """What was measured before a run was killed: the same shapes are not timed again, so the choice stays the same."""
    if not _memo(search).is_file():
        return None
    memo = json.loads(_memo(search).read_text(encoding="utf-8"))
    lacking = search.job.budget.memory_mb is not None and any(m["memory_mb"] is None for m in memo["measured"].values())
    return memo["measured"] if memo["of"] == _ids(folders) and not lacking else None


def _memo(search: Search) -> Path:
    return search.root / "shapes.json"


def _ids(folders: Mapping[str, Path]) -> dict[str, str]:
    return {name: folder.name for name, folder in folders.items()}


def _memory(folder: Path, search: Search) -> float:
    rows = entries.timed_texts(search.data.dev, search.job.seed)[:64]
    return float(memory(folder, *entries.two_lists(rows)).value)


def _make_teacher(search: Search) -> None:
    shape = Shape("", search.model.blocks, search.model.blocks, "int8")
    if search.model.head == search.data.task.name:
        search.teacher_folder = search.model.path
    else:
        done = search.make(distilled(search.job, search.model, shape))
        first = done[0].artefact
        search.teacher_folder = first.path
        search.teacher |= {
            "path": f"stages/{first.id}",
            "lineage": list(first.record["lineage"]),
            "curves": entries.curves(first.record["lineage"], search.root),
        }
    numbers = search.teacher["numbers"]
    numbers["size_mb"] = _torch_bytes(search.teacher_folder) / 1e6
    dev = search.data.dev
    search.teacher_dev = TorchModel(search.teacher_folder, search.data.task).outputs(dev.texts, dev.pairs)
    numbers["dev_quality"] = entries.quality_data(search.data.task, search.teacher_dev, dev)


def _train(search: Search, candidate: Candidate) -> None:
    done = search.make(distilled(search.job, search.model, candidate.shape))
    _judge(search, candidate.entry, done[-1])
    candidate.folder = done[-1].artefact.path
    dev = search.data.dev
    candidate.logits = load(candidate.folder).outputs(dev.texts, dev.pairs)
    candidate.entry["status"] = "trained"
    candidate.entry["numbers"]["dev_quality"] = entries.quality_data(search.data.task, candidate.logits, dev)


def _judge(search: Search, entry: Entry, done: Done) -> None:
    """What an entry can say of its artefact without running it."""
    artefact = done.artefact
    entry |= {
        "path": f"stages/{artefact.id}",
        "lineage": list(artefact.record["lineage"]),
        "curves": entries.curves(artefact.record["lineage"], search.root),
    }
    entry["numbers"]["size_mb"] = deployed_bytes(artefact.path) / 1e6
    entry["numbers"]["parameters"] = int(parameters(artefact.path).value)


def _add_folder(search: Search, models: dict[str, Any], name: str, recipe: Recipe) -> None:
    done = search.make(recipe)
    entry = entries.entry(name, "baseline", recipe={"stages": to_data(recipe.stages)})
    _judge(search, entry, done[-1])
    model = load(done[-1].artefact.path)
    dev = search.data.dev
    logits = model.outputs(dev.texts, dev.pairs)
    entry["numbers"]["dev_quality"] = entries.quality_data(search.data.task, logits, dev)
    search.baselines.append(entry)
    models[name] = model


def _torch_bytes(folder: Path) -> int:
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    return sum((folder / name).stat().st_size for name in names if (folder / name).is_file())


def _broken_words(budget: Budget, entry: Entry, broken: Mapping[str, float]) -> str:
    """`p95 is 3.1 ms, the budget is 2 ms.` for each limit that is broken."""
    numbers = entry["numbers"]
    words: list[str] = []
    if "latency" in broken:
        got = numbers["latency"][f"{budget.percentile}_ms"]
        words.append(f"{budget.percentile} is {got:.2f} ms, the budget is {budget.latency_ms:g} ms")
    for name, limit in (("size", budget.size_mb), ("memory", budget.memory_mb)):
        if name in broken:
            words.append(f"{name} is {numbers[f'{name}_mb']:.1f} MB, the budget is {limit:g} MB")
    if "quality" in broken and budget.quality is not None:
        words.append(f"quality is {1 / broken['quality']:.1%} of the least that {budget.quality.text} allows")
    return "; ".join(words) + "."
