"""From a budget to the best model.

1. `smidgen.feasibility`: shapes are built with untrained weights, exported and timed, text in to label out. What
   the budget forbids is never trained.
2. `smidgen.racing`: the teacher is trained, or taken as it stands. Quality is then the only thing that is searched, on
   dev: by successive halving (`smidgen.halving`), until the finalists are trained in full.
3. `smidgen.running`: what was trained is run by the fastest engine, on as many threads as are the fastest.
4. Here: one winner is chosen on dev. Test is read once, after that, for the winner, the teacher and the baselines.

Every model on the way is a recipe run through `smidgen.runner`, so what is on disk is not made again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smidgen.budget import least_quality
from smidgen.candidates import (
    Candidate,
    Search,
    broken_words,
    has_learnt,
    in_budget,
    judge,
    judged_by,
    memory_of,
    only_quality,
    over_on_dev,
    teacher_quality,
    whole_body,
)
from smidgen.cascading import built
from smidgen.caveats import seen, unresolved
from smidgen.choosing import Choice, Miss, alternatives, draws, mean_quality, nearest, pick, sureness
from smidgen.deferral import mixed, together
from smidgen.errors import UNMADE, OutOfTime
from smidgen.measure import entries
from smidgen.measure.peers import TfIdf, TfIdfs, TorchModel, UsualTag
from smidgen.pairing import Trained as Part
from smidgen.pairing import cascades, wanted_of
from smidgen.portrait import portrait
from smidgen.recipe import Recipe, to_data
from smidgen.runtime import Cascade, deployed_bytes, load
from smidgen.runtime.machine import usable_cores
from smidgen.shapes import Body, Shape, distilled, plain
from smidgen.splits import Split
from smidgen.tasks import Classify, Several, Tag, Task


def add_cascades(search: Search) -> None:
    """Pairs of what was trained, of which the faster one answers what it is sure of, as candidates of their own.

    The best seeds of both are deployed, and the threshold is theirs. What is compared is the mean over their seeds, as
    of all others.
    """
    task, dev = search.data.task, search.data.dev
    if not isinstance(task, Classify | Several) or search.teacher_dev is None:
        return
    gold = dev.labels
    assert gold is not None
    folders = {c.shape.name: c.folder for c in search.candidates if c.outputs and c.folder is not None}
    said = {c.shape.name: sorted(c.outputs, key=lambda one: -task.score(one, gold)) for c in search.candidates}
    numbers = {c.shape.name: c.entry["numbers"] for c in search.candidates}
    parts = [
        Part(name, load(folder).outputs(dev.texts, dev.pairs), numbers[name]["latency"], numbers[name]["size_mb"])
        for name, folder in folders.items()
    ]
    for pair in cascades(task, parts, gold, search.job.budget, search.teacher_dev):
        made = built(search.root, pair, folders, {"task": task.to_data()})
        shape = Shape(Body(f"{pair.small} then {pair.large}", "cascade"), "cascade")
        recipe = {"cascade": made.record["levels"]}
        lineage = list(made.record["lineage"])
        entry = entries.entry(shape.name, "trained", search.place(made), recipe=recipe, lineage=lineage)
        others = together(said[pair.small], said[pair.large])[1:]
        outputs = [load(made.path).outputs(dev.texts, dev.pairs)]
        outputs += [mixed(task, small, large, pair.choice) for small, large in others]
        entry["numbers"] |= {"size_mb": deployed_bytes(made.path) / 1e6, "latency": dict(pair.latency)}
        entry["numbers"]["dev_quality"] = mean_quality(task, outputs, dev)
        if search.job.budget.memory_mb is not None:
            entry["numbers"]["memory_mb"] = memory_of(made.path, search)
        search.candidates.append(Candidate(shape, entry, made.path, outputs))
        search.compared += 1


def choose(search: Search) -> Candidate | None:
    """The winner by dev among those that keep to the budget, see `smidgen.choosing.pick`."""
    named = {c.shape.name: c for c in in_budget(search)}
    labels, drawn = search.data.dev.labels, None
    if named and not only_quality(search.job.budget):
        assert labels is not None
        outputs = {name: c.outputs for name, c in named.items()}
        drawn = draws(search.data.task, labels, outputs, search.job.seed)
    name = pick({name: c.entry["numbers"] for name, c in named.items()}, drawn)
    return named[name] if name is not None else None


def sure(search: Search, winner: Candidate) -> Choice:
    """How sure the choice is, of those that were trained and keep to the budget."""
    labels, teacher, budget = search.data.dev.labels, search.teacher_dev, search.job.budget
    assert labels is not None and teacher is not None
    outputs = {c.shape.name: c.outputs for c in in_budget(search)}
    trained = [c for c in search.candidates if c.outputs]
    short = search.compared - len({c.shape.body.name for c in trained})
    wanted = wanted_of(budget, teacher, teacher) if only_quality(budget) else None
    compared = short + len(trained)
    return sureness(search.data.task, labels, outputs, winner.shape.name, compared, search.job.seed, wanted)


def other_ways(search: Search, winner: Candidate | None) -> list[dict[str, Any]]:
    """The best of what was trained along each axis."""
    numbers = {c.shape.name: c.entry["numbers"] for c in search.candidates if c.outputs}
    name = winner.shape.name if winner is not None else None
    return alternatives(numbers, name, search.job.budget, teacher_quality(search))


def missed(search: Search, winner: Candidate | None) -> Miss | None:
    """What comes nearest to a budget that is not kept: the one chosen on dev, of what was trained, or of all; None
    where something fits and nothing was trained.
    """
    budget = search.job.budget
    if winner is not None:
        key = judged_by(search)
        return nearest({winner.shape.name: winner.entry["numbers"]}, budget, teacher_quality(search, key), key)
    numbers = {c.shape.name: c.entry["numbers"] for c in search.candidates}
    trained = {c.shape.name: numbers[c.shape.name] for c in search.candidates if c.outputs}
    if not trained and any(c.fits for c in search.candidates):
        return None
    quality = teacher_quality(search)
    return nearest(trained, budget, quality) or nearest(numbers, budget, quality)


def decide(search: Search) -> tuple[Candidate | None, dict[str, Any]]:
    """The winner, and the peers that it was timed beside. One that breaks the budget when it is timed again, beside
    them, makes way for the next best, and is chosen in the end only where it keeps to it after all and no other does.
    So is one that keeps to it only now. Where there is no time to time all once more, the choice is by these times.
    """
    while True:
        winner, begun = choose(search), search.clock.now()
        models = baselines(search, winner)
        time_trained(search, models)
        unsteady = winner or choose(search)
        if unsteady is None or (winner and (winner.wavers or not over_on_dev(search, winner))):
            return winner, models
        unsteady.wavers = True
        if search.clock.now() + (search.clock.now() - begun) > search.clock.end:
            return choose(search) or winner, models


def time_trained(search: Search, extra: Mapping[str, Any]) -> None:
    """Time everything that was trained beside the teacher and the baselines, in one run."""
    job = search.job
    models: dict[str, Any] = dict(extra)
    for candidate in search.candidates:
        if candidate.outputs:
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
        if (serving := getattr(models[name], "serving", None)) is not None:
            entry["serving"] = serving.to_data()
        entry["numbers"]["throughput"] = speed[name]
        if name != "teacher" and "teacher" in found:
            entry["numbers"]["speedup"] = entries.speedup_data(
                timed, found["teacher"], isinstance(models[name], Cascade)
            )


def baselines(search: Search, winner: Candidate | None) -> dict[str, Any]:
    """The peers that a winner is shown beside, ready to time: what needs no encoder, the teacher in int8, and the
    winner's shape without distillation."""
    job, task = search.job, search.data.task
    models: dict[str, Any] = {}
    assert search.teacher_folder is not None
    search.baselines.clear()
    models["teacher"] = TorchModel(search.teacher_folder, task)
    search.teacher["numbers"]["parameters"] = models["teacher"].parameters
    if search.simple is not None:
        name, model = search.simple
        models[name] = model
        entry = entries.entry(name, "baseline")
        entry["numbers"] |= {"size_mb": model.size_mb, "parameters": model.parameters}
        search.baselines.append(entry)
    whole = Shape(whole_body(search), "int8")
    if not any(c.shape == whole and c.outputs for c in search.candidates):
        _add_folder(search, models, "teacher, int8", distilled(job, search.model, whole), search.clock.end)
    if winner is not None and winner.shape.body.steps:
        name = f"{winner.shape.name}, without distillation"
        _add_folder(search, models, name, plain(job, search.model, winner.shape), search.clock.until)
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
    if search.clock.now() < search.clock.end:
        search.seen, told = seen(task, test, search.data.train, said)
        search.checks += told
    else:
        search.notes.append("The time limit left no time to look for rows of test that nearly are rows of train.")
    if winner is not None:
        least = least_quality(search.job.budget, search.teacher["numbers"]["quality"]["value"])
        asked = search.job.budget.quality
        said_by, of_teacher = said[winner.entry["name"]], asked is not None and asked.of_teacher
        search.checks += unresolved(task, test, said_by, teacher, least, of_teacher)
        search.portrait = portrait(task, test, said_by, teacher)


def measure_memory(search: Search, winner: Candidate | None) -> None:
    """Peak memory of a fresh process that loads and predicts: the winner, and baselines that are folders."""
    folders = [(e, search.root / Path(e["path"]).name) for e in search.baselines if e["path"]]
    if winner is not None and winner.folder is not None:
        folders.append((winner.entry, winner.folder))
    for entry, folder in folders:
        entry["numbers"]["memory_mb"] = memory_of(folder, search)


def verdict(search: Search, winner: Candidate | None) -> tuple[str, str]:
    """`met` or `not_met`, and what there is to say: for `not_met` the binding constraint, the nearest candidate, and
    the budget that it would keep to.
    """
    miss = missed(search, winner)
    hint = f" {_would_fit(search, miss, winner)}: {miss.fits}" if miss is not None and miss.fits else ""
    if winner is not None and miss is None:
        return "met", f"{winner.shape.name} keeps to the budget."
    if winner is not None and miss is not None:
        said = broken_words(search.job.budget, winner.entry, miss.broken)
        return "not_met", f"{winner.shape.name} fits on dev but not in the end: {said}{hint}"
    if search.too_short:
        return "not_met", search.too_short
    if not has_learnt(search):
        return (
            "not_met",
            f"The teacher's {search.data.task.metric} on dev is 0, so there is nothing to keep. Train it longer "
            "(--teacher-epochs), on more data, or check the labels.",
        )
    if miss is None:
        fit = [c.entry for c in search.candidates if c.fits]
        if not fit:
            return "not_met", "No candidate was trained."
        hint = " Give a longer --time-limit." if search.clock.limit is not None else ""
        return (
            "not_met",
            f"No candidate was trained, though {len(fit)} fitted the budget. "
            f"{fit[0]['name']}: {fit[0]['reason']}.{hint}",
        )
    named = {c.shape.name: c.entry for c in search.candidates}
    said = broken_words(search.job.budget, named[miss.name], miss.broken)
    return "not_met", (
        f"Nothing fits the budget. The binding constraint is {miss.binding}; nearest is {miss.name}: {said}{hint}"
    )


def _would_fit(search: Search, miss: Miss, winner: Candidate | None) -> str:
    """How a budget is spoken of that the nearest candidate would keep to, as far as it was judged."""
    (entry,) = (c.entry for c in search.candidates if c.shape.name == miss.name)
    if search.job.budget.quality is None or winner is not None or entry["numbers"]["dev_quality"] is not None:
        return "It would keep to this"
    return "Its quality is not known, since nothing was trained; the other limits it would keep"


def without_encoder(train: Split, task: Task, seed: int) -> tuple[str, TfIdf | TfIdfs | UsualTag] | None:
    """The name of the simple baseline of a task, and the baseline; None where there is none."""
    if isinstance(task, Classify):
        return "TF-IDF + logistic regression", TfIdf(train, task, seed)
    if isinstance(task, Several):
        return "TF-IDF + logistic regression, one a task", TfIdfs(train, task, seed)
    return ("most frequent tag of each word", UsualTag(train, task)) if isinstance(task, Tag) else None


def _add_folder(search: Search, models: dict[str, Any], name: str, recipe: Recipe, until: float) -> None:
    """A baseline that is made by a recipe, or a note that there was no time for it."""
    try:
        done = search.make(recipe, until)
    except OutOfTime as late:
        note = f"The time limit left no time for the baseline {name}: {late}."
        search.notes += [note] if note not in search.notes else []  # `decide` may ask again
        return
    except UNMADE as refusal:
        note = f"Without the baseline {name}, which cannot be made: {refusal}"
        search.notes += [note] if note not in search.notes else []
        return
    entry = entries.entry(name, "baseline", recipe={"stages": to_data(recipe.stages)})
    judge(search, entry, done[-1])
    model = load(done[-1].artefact.path)
    dev = search.data.dev
    logits = model.outputs(dev.texts, dev.pairs)
    entry["numbers"]["dev_quality"] = entries.quality_data(search.data.task, logits, dev)
    search.baselines.append(entry)
    models[name] = model
