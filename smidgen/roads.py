"""Which roads to take with a model, data and a machine: small rules over facts, each with the numbers that decided it.

    facts -> roads -> course -> recipe

`smidgen.advising` finds the facts, a few of them by measuring, and writes the recipe. Here nothing is measured: a road
is a function from facts to whether it is taken, why, and what it sets on the course. What a student keeps is not known
before it is trained; where a rule leans on what ours kept, it says so, and docs/evidence.md has the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from smidgen.advice import enough_epochs
from smidgen.facts import Encoder, Facts
from smidgen.fitting import LITTLE, Pick, broken, pick
from smidgen.words import count, mb, ms, plain, seconds

FEW_ROWS = 2000  # labelled; our rows with bare and with noisy texts had 1,200
FEWEST = 500  # labelled, below which papers tune few numbers instead of all
COPIES = 4  # noisy ones of each text, where nothing better is there
LONG = 128  # tokens from which on a text is worth a look at its length
WINDOW = 64  # tokens that local attention sees to each side
WORTH = 0.25  # of the operations, that another attention has to save
PER_NUMBER = 20  # bytes of training: weight, gradient, two moments, the best weights so far
ROOM = 0.8  # of the free memory, that training may take
# What int8 students kept of a base-size teacher's accuracy on SST-2, in docs/evidence.md.
KEPT = {"cut": (0.94, "MiniLM of 3 blocks"), "cnn": (0.91, "a CNN"), "static": (0.87, "a static student")}
SAME = 0.98  # what 3 blocks of 6 kept of their own teacher's
BEHIND = 18.0  # points of accuracy by which BitFit was behind full tuning with 200 labels
# Local attention at so many tokens, beside full attention: times as fast, MB of the process, share of accuracy kept.
LOCAL_AT, LOCAL_TIMES, LOCAL_MB, LOCAL_KEPT = 2048, 2.46, (354, 454), 0.990


@dataclass(frozen=True)
class Road:
    """Whether to take a road, and why; what that sets on the course."""

    name: str
    taken: bool
    why: str
    sets: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Course:
    """What the recipe is made of."""

    student: str = ""  # cut | bilstm | cnn | static; "" = the teacher itself
    blocks: int = 0  # of the student that is cut
    vocabulary: bool = False  # drop the tokens that no text uses
    grown: bool = False  # noisy copies of the labelled texts for the student
    tuned: str = "full"  # how the teacher is tuned: full, or a method of tune beside it
    deltas: bool = False  # leave it at that: the base stays as it is, and serves many tasks
    window: int = 0  # tokens of local attention; 0 = as it is
    frozen: int = 0  # blocks that do not train
    micro_tokens: int = 0  # 0 = the habit
    shorter: float = 1.0  # share of the usual epochs


def roads(facts: Facts) -> list[Road]:
    """Every road there is, in the order in which a recipe meets them."""
    found = [rule(facts) for rule in (many_tasks, long_documents, little_memory, tight_size, tight_latency)]
    found.insert(1, few_labels(facts, bool(course(facts, found).student)))
    return [*found, little_time(facts, course(facts, found))]


def course(facts: Facts, found: Sequence[Road]) -> Course:
    """What the roads that are taken come to; one base for many tasks is neither cut nor distilled."""
    sets: dict[str, Any] = {}
    for road in found:
        sets |= road.sets if road.taken else {}
    if sets.get("deltas"):
        sets = {name: value for name, value in sets.items() if name in ("deltas", "tuned", "shorter", "micro_tokens")}
    return replace(Course(), **sets)


# The roads.


def many_tasks(facts: Facts) -> Road:
    """Deltas over one base, in one bundle."""
    model, tasks = facts.model, facts.tasks
    if tasks == 1:
        own = f"The {facts.texts.task} tasks of the data" if facts.texts.task == "several" else "One task"
        return Road("many tasks", False, f"{own}: one model. Type --tasks N if one base is to serve more.")
    method = _small_method(facts)
    each = (_bias_numbers(model) if method == "bitfit" else _low_numbers(model)) * 4 / 1e6
    whole = model.numbers * 4 / 1e6
    why = (
        f"{tasks} whole models take {mb(tasks * whole)}, one base and {tasks} deltas about {mb(whole + tasks * each)}; "
        f"rows of all tasks share a batch. {method} is what to begin with at {count(facts.texts.train)} labels "
        "(docs/many-tasks.md); smidgen tune --method auto compares it with others on these rows."
    )
    return Road("many tasks", True, why, {"deltas": True, "tuned": method})


def few_labels(facts: Facts, student: bool) -> Road:
    """A student of few labels, where there is one, learns from its teacher's answers to more texts."""
    texts = facts.texts
    rarest = f", {texts.rarest[1]:,} of {texts.rarest[0]!r}" if texts.rarest else ""
    have = f"{count(texts.train)} labelled rows{rarest}"
    if texts.train >= FEW_ROWS:
        return Road("few labels", False, f"{have}: enough to tune all of the model (few is below {FEW_ROWS:,}).")
    sets: dict[str, Any] = {}
    said = [f"{have} (few is below {FEW_ROWS:,})."]
    if texts.train < FEWEST and not facts.model.trained:
        said.append(
            f"All of the teacher is tuned all the same: with 200 labels bitfit was {BEHIND} points behind that "
            "(docs/evidence.md)."
        )
    if not student:
        said.append("More texts would teach a student, and none is on this way.")
    elif texts.unlabeled:
        said.append(f"A student also learns what its teacher says of the {count(texts.unlabeled)} unlabelled rows.")
    elif texts.task in ("classify", "several", "tag"):
        sets["grown"] = True
        said.append(
            f"A student also learns what its teacher says of {COPIES} noisy copies of each. Real texts of the same "
            "kind are better: --unlabeled FILE."
        )
    else:
        said.append("Nothing here grows questions: more of them would help.")
    said.append("With 1,200 labels bare texts brought our students 3.3 points and noisy copies as many.")
    return Road("few labels", bool(sets or (student and texts.unlabeled)), " ".join(said), sets)


def long_documents(facts: Facts) -> Road:
    """What is behind the limit is lost; attention between tokens grows with the square of the length."""
    texts, model = facts.texts, facts.model
    length = min(texts.p95, model.limit)
    have = f"95 % of the texts have at most {count(texts.p95)} tokens, the model takes {count(model.limit)}"
    if texts.task == "answer":
        return Road("long documents", False, f"{have}; contexts are read in windows, so that nothing is lost.")
    share = length / (6 * model.hidden + length)  # of a block's operations: 12 h h a token, and 2 L h in the scores
    saved = share * max(0.0, 1 - 3 * WINDOW / max(length, 1))
    said, sets = [f"{have}."], {}
    if texts.over > 0.01:
        said.append(
            f"{texts.over:.1%} are longer, and {texts.lost.get(model.limit, 0.0):.1%} of all tokens are behind the "
            "cut. Nothing here gives a model more places: put into the data what tells documents apart, or cut them "
            "in parts, or take a model with more places."
        )
    said.append(f"At {count(length)} tokens attention between tokens is {share:.0%} of a block's operations")
    if saved >= WORTH and length >= LOCAL_AT:
        sets["window"] = WINDOW
        said[-1] += (
            f"; seeing {WINDOW} to each side saves {saved:.0%}. Measured at {count(LOCAL_AT)} tokens it was "
            f"{LOCAL_TIMES} times as fast, in {LOCAL_MB[0]} MB instead of {LOCAL_MB[1]}, and kept "
            f"{LOCAL_KEPT:.1%} of the accuracy (docs/evidence.md), so compare both with smidgen bench."
        )
    elif saved >= WORTH:
        said[-1] += (
            f"; local attention would save {saved:.0%} of them, and was slower where it was measured with fewer than "
            f"{count(LOCAL_AT)} tokens (docs/evidence.md)."
        )
    else:
        said[-1] += f"; local attention would save {saved:.0%} of them (worth it from {WORTH:.0%})."
    said += _shorter(facts)
    return Road("long documents", bool(sets) or texts.over > 0.01, " ".join(said), sets)


def little_memory(facts: Facts) -> Road:
    """Smaller pieces of a step, and blocks below that do not train."""
    model, free, peak = facts.model, facts.machine.free_mb, facts.measured.train_mb
    need = peak if peak is not None else model.numbers * PER_NUMBER / 1e6
    least = "" if peak is not None else "at least "
    said = f"A process that fine-tunes all of it takes {least}{mb(need)}"
    if free is None:
        return Road("little memory", False, f"{said}; the system does not tell what is free.")
    said += f"; {mb(free)} are free"
    if need <= ROOM * free:
        return Road("little memory", False, f"{said}.")
    frozen = model.blocks // 2
    why = (
        f"{said}. The lower {frozen} of {model.blocks} blocks stay as they are, so that they need no gradient and no "
        "moments, and a step is cut in pieces of 2,048 tokens. Where that is still too much, tune.ladder sends no "
        "gradient through the base at all."
    )
    return Road("little memory", True, why, {"frozen": frozen, "micro_tokens": 2048})


def tight_size(facts: Facts) -> Road:
    """First the tokens that no text uses, then blocks, then another kind of student."""
    found, budget, measured = pick(facts), facts.budget, facts.measured
    over = [name for name in broken(facts, measured.whole, False) if name in ("size", "memory")]
    have = f"The whole model in int8 is {mb(measured.whole.size_mb)}"
    run = f", a process that predicts takes {mb(measured.run_mb)}" if measured.run_mb else ""
    if budget.size_mb is None and budget.memory_mb is None:
        return Road("tight size", False, f"{have}{run}; no limit is given (--max-size, --max-memory).{_spare(facts)}")
    limits = [
        f"{name} {mb(limit)}"
        for name, limit in (("--max-size", budget.size_mb), ("--max-memory", budget.memory_mb))
        if limit
    ]
    said = f"{have}{run}; {' and '.join(limits)}"
    if not over:
        return Road("tight size", False, f"{said} {'hold' if len(limits) > 1 else 'holds'}.{_spare(facts)}")
    if facts.tasks > 1:
        return Road("tight size", False, f"{said}: too little, but {SERVES}")
    words = [f"{said} {'do' if len(limits) > 1 else 'does'} not hold."]
    sets = _sets(found)
    if found.vocabulary:
        words.append(
            f"{count(measured.used)} of {count(measured.tokens)} tokens are needed for these texts; without the others "
            f"{mb(measured.spared_mb)} go, and little quality."
        )
    words.append(_picked(facts, found))
    return Road("tight size", True, " ".join(words), sets)


def tight_latency(facts: Facts) -> Road:
    """As many blocks as the limit allows, or a student without any."""
    found, budget, measured = pick(facts), facts.budget, facts.measured
    name = budget.percentile
    have = f"The whole model in int8 takes {ms(measured.whole.at(name))} at {name}"
    share = f"{ms(measured.tokenizer_ms)} of it in the tokenizer, which no cut takes away"
    if budget.latency_ms is None:
        return Road("tight latency", False, f"{have}, {share}; no limit is given (--max-latency).")
    limit = f"{ms(budget.latency_ms)} are allowed"
    if "latency" not in broken(facts, measured.whole, False):
        return Road("tight latency", False, f"{have}, {limit}.")
    if facts.tasks > 1:
        return Road("tight latency", False, f"{have}, {limit}: too little, but {SERVES}")
    each = _a_block(facts, name)
    words = [f"{have}, {share}; {limit}."]
    if each is not None and each > 0:
        words.append(f"A block takes {ms(each)}.")
    words.append(_picked(facts, found))
    return Road("tight latency", True, " ".join(words), _sets(found))


def little_time(facts: Facts, planned: Course) -> Road:
    """Fewer epochs where the usual ones would not end in time."""
    whole = takes(facts, planned)
    limit = facts.budget.time_limit_s
    if whole is None:
        return Road("little time", False, "How fast this model trains here was not measured.")
    said = f"The recipe takes about {seconds(round(whole))} of training here, {_pace(facts)}"
    if limit is None:
        return Road("little time", False, f"{said}; no limit is given (--time-limit).")
    if whole <= limit:
        return Road("little time", False, f"{said}; {seconds(limit)} are given.")
    labels = takes(facts, replace(planned, shorter=0.0)) or 0.0
    share = max(0.0, limit - labels) / (whole - labels)
    why = f"{said}; {seconds(limit)} are given, so that each stage trains {share:.0%} of its usual epochs."
    if share < 1 / 6:
        why += " That is less than an epoch of some: give more time, or fewer rows."
    return Road("little time", True, why, {"shorter": round(share, 2)})


# What the rules share.


def takes(facts: Facts, planned: Course) -> float | None:
    """Seconds of training, by the pace of the whole model: a teacher's answer is a third of a step, a student of fewer
    blocks takes its part of one, one without blocks a twentieth."""
    if not facts.measured.texts_per_s:
        return None
    each, texts = 1 / facts.measured.texts_per_s, facts.texts
    epochs = EPOCHS["teacher"] if planned.tuned == "full" else max(EPOCHS["small"], enough_epochs(texts.train))
    teacher = 0.0 if facts.model.trained else epochs * texts.train
    if planned.window:
        teacher += 3 * texts.train
    if not planned.student or planned.deltas:
        return planned.shorter * each * teacher
    rows = texts.train * (1 + COPIES * planned.grown) + texts.unlabeled
    part = planned.blocks / facts.model.blocks if planned.student == "cut" else 0.05
    return planned.shorter * each * (teacher + EPOCHS["student"] * rows * part) + each * rows / 3


SERVES = "a base that serves many tasks is not cut for one of them. Give a smaller base."
EPOCHS = {"teacher": 3, "small": 5, "student": 6}


def expected(facts: Facts, planned: Course) -> str:
    """What students of that kind kept of their teachers in our rows, beside what is asked; "" where there are none."""
    asked = facts.budget.quality
    if planned.student not in KEPT or planned.deltas:
        return ""
    share, name = KEPT[planned.student]
    if planned.student == "cut":
        own = f"3 of 6 blocks kept {SAME:.0%} of their own teacher's accuracy, {name} {share:.0%} of a base-size one's"
    else:
        own = f"{name} kept {share:.0%} of a base-size teacher's accuracy"
    said = f"In docs/evidence.md {own}; of yours dev will tell."
    if asked is not None and asked.of_teacher and asked.at_least > (SAME if planned.student == "cut" else share):
        said += f" {asked.text} is more than that: expect it not to be met."
    return said


def _sets(found: Pick) -> dict[str, Any]:
    student = "" if found.shape.kind == "whole" else found.shape.kind
    return {"student": student, "blocks": found.shape.blocks, "vocabulary": found.vocabulary}


def _picked(facts: Facts, found: Pick) -> str:
    """The shape that is taken, or what stands against it, in words."""
    shape, name = found.shape, facts.budget.percentile
    size = shape.size_mb - (facts.measured.spared_mb if found.vocabulary else 0.0)
    tried = shape in (facts.measured.whole, facts.measured.cut, *facts.measured.small) and not found.vocabulary
    how = "measured" if tried else "worked out from what was measured"
    told = f"{ms(shape.at(name))} at {name} and {mb(size)}, {how}"
    if not found.broken:
        return f"The largest that keeps to the budget is {shape.name}: {told}."
    return (
        f"Nothing keeps to the budget: the smallest is {shape.name}, {told}, and breaks {' and '.join(found.broken)}."
    )


def _spare(facts: Facts) -> str:
    measured = facts.measured
    if measured.spared_mb <= LITTLE * measured.whole.size_mb:
        return ""
    return (
        f" {mb(measured.spared_mb)} of it are for {count(measured.tokens - measured.used)} of "
        f"{count(measured.tokens)} tokens that these texts never use (prune.vocab)."
    )


def _a_block(facts: Facts, percentile: str) -> float | None:
    whole, cut = facts.measured.whole, facts.measured.cut
    return None if cut is None else (whole.at(percentile) - cut.at(percentile)) / (whole.blocks - cut.blocks)


def _shorter(facts: Facts) -> list[str]:
    """The cut that would save most for a tenth of the tokens, where time is short and texts are long."""
    texts, budget = facts.texts, facts.budget
    if texts.p95 < LONG or budget.latency_ms is None or "latency" not in broken(facts, facts.measured.whole, False):
        return []
    cheap = [length for length, lost in sorted(texts.lost.items()) if lost <= 0.1 and length < 0.75 * texts.p95]
    if not cheap:
        return []
    return [
        f"Time goes with tokens: --max-length {cheap[0]} would lose {texts.lost[cheap[0]]:.1%} of them, and long texts "
        f"would take about {cheap[0] / min(texts.p95, texts.max_length):.0%} of their time. Dev tells what it costs."
    ]


def _pace(facts: Facts) -> str:
    return f"at {plain(facts.measured.texts_per_s)} texts a second of the whole model"


def _small_method(facts: Facts) -> str:
    """Of the table in docs/many-tasks.md: by the number of labels, and ModernBERT has no biases."""
    if facts.texts.train >= FEW_ROWS or facts.model.family == "modernbert":
        return "lora"
    return "bitfit"


def _bias_numbers(model: Encoder) -> int:
    """Biases of four projections, of the feed-forward and of two norms."""
    return 11 * model.blocks * model.hidden


def _low_numbers(model: Encoder) -> int:
    """LoRA of rank 8 on two sites."""
    return 32 * model.blocks * model.hidden
