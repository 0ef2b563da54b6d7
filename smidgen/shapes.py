"""The candidates of a compression, and the recipe that makes each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from smidgen.budget import Budget
from smidgen.recipe import Files, Recipe, Stage, Training, Use
from smidgen.source import Source

TEACHER = Training(epochs=3, learning_rate=1e-4)
STUDENT = Training(epochs=6, learning_rate=2e-4)
PRECISIONS = ("int8", "float32")


@dataclass(frozen=True)
class Job:
    """What a compression is asked to do."""

    model: str
    files: Files
    budget: Budget
    students: tuple[str, ...] = ()  # other pretrained models to consider
    depths: tuple[int, ...] = ()  # blocks to keep; () = one to four, and the halves and thirds of the whole
    finalists: int = 2  # trained candidates, at most
    seed: int = 0
    task: str = "classify"
    teacher: Training = TEACHER
    student: Training = STUDENT
    calls: int = 300  # timed calls of each candidate


@dataclass(frozen=True)
class Shape:
    """One candidate: which model, how many of its blocks, in which precision."""

    model: str  # "" = the model given; else another pretrained model's reference
    blocks: int
    whole: int  # blocks of the model before any are cut
    precision: str

    @property
    def body(self) -> str:
        """The same for two precisions of one training."""
        depth = "1 block" if self.blocks == 1 else f"{self.blocks} blocks"
        return f"{self.model}, {depth}" if self.model else depth

    @property
    def name(self) -> str:
        return f"{self.body}, {self.precision}"


def shapes(model: Source, students: Sequence[Source], depths: Sequence[int] = ()) -> list[Shape]:
    """All candidates, the ones that promise most first: the model's own blocks from many to few, then the others."""
    n = model.blocks
    some = depths or (1, 2, 3, 4, round(n / 3), round(n / 2), round(2 * n / 3), n)
    own = [Shape("", d, n, p) for d in sorted({d for d in some if 1 <= d <= n}, reverse=True) for p in PRECISIONS]
    return own + [Shape(s.reference, s.blocks, s.blocks, p) for s in students for p in PRECISIONS]


def untrained(job: Job, shape: Shape) -> Recipe:
    """A shape with the weights it happens to have: enough to know its speed and its size."""
    cut = [Stage("untrained", _cut(shape))] if shape.blocks < shape.whole else []
    return _recipe(job, shape, "untrained", cut)


def distilled(job: Job, model: Source, shape: Shape) -> Recipe:
    """The shape as a student of the teacher; at full depth, the teacher itself."""
    stages = teacher_stages(job, model)
    if not shape.model and shape.blocks == shape.whole:
        return _recipe(job, shape, "teacher", stages)
    methods = [*_cut(shape), Use("distil.logits", {"loss_kind": "mse"})]
    if not shape.model:
        methods.append(Use("distil.hidden", {"mapping": "uniform"}))
    student = Stage(
        "student",
        tuple(methods),
        source=shape.model or None,
        teacher=stages[-1].name if stages else job.model,
        data="train+unlabeled" if job.files.unlabeled else "train",
        train=job.student,
    )
    return _recipe(job, shape, "distilled", [*stages, student])


def plain(job: Job, shape: Shape) -> Recipe:
    """The same shape trained on the labels alone: what distillation is measured against."""
    training = replace(job.student, learning_rate=job.teacher.learning_rate)  # the rate that labels are learnt best at
    stage = Stage("plain", (*_cut(shape), Use("tune.full")), source=shape.model or None, train=training)
    return _recipe(job, shape, "plain", [stage])


def teacher_stages(job: Job, model: Source) -> list[Stage]:
    """Fine-tune a bare encoder; a model that has the task's head is its own teacher."""
    return [] if model.head == job.task else [Stage("teacher", (Use("tune.full"),), train=job.teacher)]


def _cut(shape: Shape) -> tuple[Use, ...]:
    return (Use("prune.layers", {"keep": shape.blocks}),) if shape.blocks < shape.whole else ()


def _recipe(job: Job, shape: Shape, how: str, stages: Sequence[Stage]) -> Recipe:
    start = None if stages else shape.model or None
    graphs = [Stage("onnx", (Use("export.onnx"),), source=start), Stage("int8", (Use("quant.dynamic"),))]
    kept = graphs if shape.precision == "int8" else graphs[:1]
    stages = (*stages, *kept)
    return Recipe(
        model=job.model, data=job.files, stages=stages, task=job.task, seed=job.seed, name=f"{shape.name}, {how}"
    )
