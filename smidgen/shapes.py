"""The space of a search: candidates as data, and the recipes that make them.

A body is what is made of a model and how it learns: `made` says the shape, with which its speed and size are known
before anything is trained, and `steps` the stages from the teacher to the student. A finish is what becomes of a
trained body: its vocabulary and its precision. A shape, one candidate, is a body with a finish. A family is a line of
FAMILIES: from the depth of the model to bodies of one kind, the largest first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from smidgen.budget import Budget
from smidgen.method import find
from smidgen.recipe import Files, Recipe, Stage, Training, Use, build
from smidgen.runtime.machine import cuts_off
from smidgen.source import Source

TEACHER = Training(epochs=3, learning_rate=1e-4)
STUDENT = Training(epochs=6, learning_rate=2e-4)


@dataclass(frozen=True)
class Job:
    """What a compression is asked to do."""

    model: str
    files: Files
    budget: Budget
    students: tuple[str, ...] = ()  # other pretrained models to consider
    depths: tuple[int, ...] = ()  # blocks to keep; () = one to four, and the halves and thirds of the whole
    families: tuple[str, ...] = ()  # of FAMILIES; () = all, or depth alone where depths are named
    finishes: tuple[str, ...] = ()  # of FINISHES; () = int8 and float32, and where bytes are scarce SCARCE too
    per_family: int = 2  # of each family so many of the largest that fit are searched
    finalists: int = 2  # trained in full, at most
    seeds: int = 3  # that finalists are trained with; the mean decides
    seed: int = 0
    task: str = "classify"
    teacher: Training = TEACHER
    student: Training = STUDENT
    calls: int = 300  # timed calls of each candidate
    engine: str | None = None  # what the winner is to run on; None = the fastest that is installed


@dataclass(frozen=True)
class Step:
    """One stage on the way to a student. It starts from the one before it, the first from the teacher."""

    name: str
    uses: tuple[Use, ...]
    share: float = 1.0  # of the epochs of a student
    train: Mapping[str, Any] = field(default_factory=dict)  # settings of training that are the step's own


@dataclass(frozen=True)
class Body:
    """A shape of weights and its way to them. Without steps it is the teacher itself."""

    name: str
    family: str
    made: tuple[Use, ...] = ()
    steps: tuple[Step, ...] = ()
    model: str = ""  # "" = the model given; else another pretrained model's reference
    work: float = 0.0  # blocks of its model that take as many operations; 0 = it has none of them

    @property
    def even(self) -> bool:
        """Is it whole blocks of its model, and nothing else?"""
        return self.work > 0 and all(use.method == "prune.layers" for use in self.made)

    @property
    def own_tokenizer(self) -> bool:
        """Does it make its own, of the tokens that the texts use?"""
        made = (build(find(use.method), use.settings, "", []) for use in self.made)
        return any(method is not None and method.new_tokenizer for method in made)


@dataclass(frozen=True)
class Shape:
    """One candidate."""

    body: Body
    finish: str = "int8"

    @property
    def name(self) -> str:
        return f"{self.body.name}, {self.finish}"


# What there is to choose from. A line more is a family, or a finish, more.

LOGITS = Use("distil.logits", {"loss_kind": "mse"})
HIDDEN = Use("distil.hidden", {"mapping": "uniform"})
BOTH = (LOGITS, HIDDEN)
SMALL = {"learning_rate": 2e-3, "batch_size": 64}  # networks that are no Transformers bear more


def _count(blocks: int) -> str:
    return "1 block" if blocks == 1 else f"{blocks} blocks"


def _keep(blocks: int) -> Use:
    return Use("prune.layers", {"keep": blocks})


def _taught(*uses: Use, share: float = 1.0, name: str = "student", train: Mapping[str, Any] | None = None) -> Step:
    return Step(name, uses, share, train or {})


def _depth(blocks: int, whole: int) -> Body:
    cut = (_keep(blocks),) if blocks < whole else ()
    return Body(_count(blocks), "depth", cut, (_taught(*cut, *BOTH),) if cut else (), work=blocks)


def _answers(blocks: int) -> Body:
    name = f"{_count(blocks)} by answers alone"
    return Body(name, "answers", (_keep(blocks),), (_taught(_keep(blocks), LOGITS),), work=blocks)


def _theseus(blocks: int) -> Body:
    replaced = _taught(Use("replace.theseus", {"groups": blocks}), LOGITS, share=0.5, name="theseus")
    name = f"{_count(blocks)} by Theseus"
    return Body(name, "theseus", (_keep(blocks),), (replaced, _taught(*BOTH, share=0.5)), work=blocks)


def _pruned(speedup: float, whole: int) -> Body:
    cut = Use("prune.fisher", {"speedup": speedup})
    name = f"pruned to 1/{speedup:g} of the work"
    return Body(name, "pruned", (cut,), (Step("cut", (cut,), 0.0), _taught(LOGITS)), work=whole / speedup)


def _narrow(blocks: int) -> Body:
    made = Use("student.narrow", {"blocks": blocks})
    return Body(f"{_count(blocks)} of half the width", "narrow", (made,), (_taught(made, *BOTH),), work=blocks / 4)


def _network(name: str, family: str, **settings: Any) -> Body:
    made = Use(f"student.{family}", settings)
    return Body(name, family, (made,), (_taught(made, LOGITS, train=SMALL),))


def _pretrained(student: Source, blocks: int) -> Body:
    """Another pretrained model, whole or less of it."""
    cut = (_keep(blocks),) if blocks < student.blocks else ()
    name = f"{student.reference}, {_count(blocks)}"
    return Body(name, student.reference, cut, (_taught(*cut, LOGITS),), student.reference, blocks)


def _pretrained_pruned(student: Source) -> Body:
    """Taught, cut, and taught again: on SST-2 it kept what the whole one did at twice the speed (docs/evidence.md)."""
    cut = Use("prune.fisher", {"speedup": 2.0})
    steps = (_taught(LOGITS, share=2 / 3), Step("cut", (cut,), 0.0), _taught(LOGITS, share=1 / 3, name="again"))
    name = f"{student.reference}, pruned to 1/2 of the work"
    return Body(name, student.reference, (cut,), steps, student.reference, student.blocks / 2)


def _of(student: Source) -> Iterator[Body]:
    """What is made of another pretrained model, the largest first."""
    yield _pretrained(student, student.blocks)
    yield _pretrained_pruned(student)
    if student.blocks > 1:
        yield _pretrained(student, student.blocks // 2)


Depths = Sequence[int]
FAMILIES: dict[str, Callable[[int, Depths], Iterable[Body]]] = {
    "depth": lambda n, depths: (_depth(d, n) for d in depths),
    "answers": lambda n, depths: (_answers(d) for d in depths if d <= n / 2),
    "theseus": lambda n, depths: (_theseus(d) for d in depths if n / 3 <= d <= n / 2),
    "pruned": lambda n, depths: (_pruned(speedup, n) for speedup in (1.5, 2.5)),
    "narrow": lambda n, depths: (_narrow(d) for d in depths if d == round(n / 2)),
    "bilstm": lambda n, depths: [_network("BiLSTM", "bilstm")],
    "cnn": lambda n, depths: [_network("CNN", "cnn")],
    "static": lambda n, depths: [_network("static vectors", "static")],
}

_DYNAMIC = Use("quant.dynamic", {"reduce_range": True} if cuts_off() else {})
_ONNX, _INT8 = Stage("onnx", (Use("export.onnx"),)), Stage("int8", (_DYNAMIC,))
_VOCAB, _STATIC = Stage("vocab", (Use("prune.vocab"),)), Stage("static", (Use("quant.static"),))
SCARCE = "small vocabulary, int8"  # fewer bytes and no more speed
FINISHES: dict[str, tuple[Stage, ...]] = {
    "int8": (_ONNX, _INT8),
    "static int8": (_ONNX, _STATIC),
    "float32": (_ONNX,),
    SCARCE: (_VOCAB, _ONNX, _INT8),
}
USUAL = ("int8", "float32")  # static int8 is no faster with ONNX Runtime; with OpenVINO it is

# Settings that change which weights a shape has, and not what it costs: with these it is made the sooner.
QUICK: dict[str, dict[str, Any]] = {
    "prune.fisher": {"rows": 64, "rearrange": False, "tune": "nothing"},
    "quant.static": {"rows": 64, "ranges": "minmax", "max_loss": None},
}
STAGES = (
    "model",
    "teacher",
    "student",
    "theseus",
    "cut",
    "again",
    "untrained",
    "plain",
    "onnx",
    "int8",
    "static",
    "vocab",
)


def bodies(model: Source, students: Sequence[Source], depths: Depths = (), families: Sequence[str] = ()) -> list[Body]:
    """All of them: of the model's own blocks from many to few, then other networks, then other pretrained models."""
    n = model.blocks
    some = depths or (1, 2, 3, 4, round(n / 3), round(n / 2), round(2 * n / 3), n)
    falling = sorted({d for d in some if 1 <= d <= n}, reverse=True)
    chosen = families or (("depth",) if depths else tuple(FAMILIES))
    own = [body for family in chosen for body in FAMILIES[family](n, falling)]
    return own + [body for student in students for body in _of(student)]


def shapes(found: Iterable[Body], finishes: Sequence[str] = (), scarce: bool = False) -> list[Shape]:
    """Bodies with each of the finishes; `scarce`: bytes are limited."""
    chosen = finishes or ((*USUAL, SCARCE) if scarce else USUAL)
    return [Shape(b, finish) for b in found for finish in chosen if finish != SCARCE or not b.own_tokenizer]


# Their recipes.


def untrained(job: Job, shape: Shape) -> Recipe:
    """A shape with the weights it happens to have: enough to know its speed and its size."""
    body = shape.body
    cut = [Stage("untrained", tuple(map(_quick, body.made)), source=body.model or None)] if body.made else []
    graphs = [replace(s, methods=tuple(map(_quick, s.methods))) for s in _graphs(job, shape.finish)]
    return _recipe(job, f"{shape.name}, untrained", body, [*cut, *graphs])


def taught(job: Job, model: Source, body: Body, share: float = 1.0, seed: int | None = None) -> Recipe:
    """A body as a student of the teacher, trained for a share of its epochs; without steps the teacher itself."""
    return _recipe(job, f"{body.name}, distilled", body, _lesson(job, model, body, share, seed))


def distilled(job: Job, model: Source, shape: Shape, share: float = 1.0, seed: int | None = None) -> Recipe:
    """The same, and its graph as it would be deployed."""
    stages = [*_lesson(job, model, shape.body, share, seed), *_graphs(job, shape.finish)]
    return _recipe(job, f"{shape.name}, distilled", shape.body, stages)


def plain(job: Job, model: Source, shape: Shape) -> Recipe:
    """The same shape trained on the labels alone: what distillation is measured against."""
    body, own = shape.body, shape.body.steps[-1].train
    # A cut that asks the loss what matters starts from what was trained; else the rate is that of learning labels.
    looks = any(find(use.method).needs.examples for use in body.made)
    learnt = [Stage("student", (Use("tune.full"),), source=body.model, train=job.teacher)] if body.model else []
    before = [*(learnt or teacher_stages(job, model)), Stage("cut", body.made)] if looks else []
    training = replace(job.student, **{"learning_rate": job.teacher.learning_rate, **own})
    uses = (Use("tune.full"),) if looks else (*body.made, Use("tune.full"))
    stage = Stage("plain", uses, source=None if looks else body.model or None, train=training)
    return _recipe(job, f"{shape.name}, plain", body, [*before, stage, *_graphs(job, shape.finish)])


def teacher_stages(job: Job, model: Source) -> list[Stage]:
    """Fine-tune a bare encoder; a model that has the task's head is its own teacher."""
    return [] if model.head == job.task else [Stage("teacher", (Use("tune.full"),), train=job.teacher)]


def _lesson(job: Job, model: Source, body: Body, share: float, seed: int | None) -> Iterator[Stage]:
    stages = teacher_stages(job, model)
    yield from stages
    for i, step in enumerate(body.steps):
        epochs = round(job.student.epochs * step.share * share, 3)
        trains = {"teacher": stages[-1].name if stages else job.model} if step.share else {}
        yield Stage(
            step.name,
            step.uses,
            source=(body.model or None) if i == 0 else None,
            data=_texts(job) if step.share else "train",
            train=replace(job.student, **{**step.train, "epochs": epochs}) if step.share else Training(),
            seed=seed if step.share else None,
            **trains,
        )


def _graphs(job: Job, finish: str) -> list[Stage]:
    return [replace(stage, data=_texts(job)) for stage in FINISHES[finish]]


def _texts(job: Job) -> str:
    return "train+unlabeled" if job.files.unlabeled else "train"


def _quick(use: Use) -> Use:
    return Use(use.method, {**use.settings, **QUICK.get(use.method, {})})


def _recipe(job: Job, name: str, body: Body, stages: Iterable[Stage]) -> Recipe:
    first, *others = stages
    if body.model and first.source is None and first.name != "teacher":
        first = replace(first, source=body.model)
    return Recipe(model=job.model, data=job.files, stages=(first, *others), task=job.task, seed=job.seed, name=name)
