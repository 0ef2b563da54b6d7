"""What a method is: four slots of the training loop, all empty here.

    begin(ctx) -> state          look at the model, edit it, set up
    loss(state, tape) -> terms   named loss terms of one batch, each a mean made with `tape.mean`
    step(state, t)               after each optimiser step; t runs from 0 to 1
    end(state, ctx)              take down what `begin` set up

A method is a frozen dataclass of settings, final, and keeps no state on itself: state is what `begin` returns. A
state that is an `nn.Module` trains along with the model, is kept in checkpoints and with the best weights, and is
thrown away at the end. What it gives as `groups()` are groups of torch's AdamW with settings of their own (`lr`,
`maximize` ...): their rate is constant, and their gradients are not clipped with the others. A method whose work is
not a training step defines `run(ctx)` instead and owns its stage. A data step is such a method that leaves `texts`: it
grows `ctx.corpus`, and `most(rows)` says how many texts come of so many rows, at most. A method's name is its path:
`prune.layers` is `smidgen/methods/prune/layers.py`.
"""

from __future__ import annotations

import ast
import copy
import dataclasses
import importlib
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from smidgen.errors import RecipeError, did_you_mean
from smidgen.prices import Macs, Meter

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer
    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel

    from smidgen.batch import Batch
    from smidgen.corpus import Corpus
    from smidgen.edits import Edit
    from smidgen.source import Source
    from smidgen.splits import Split
    from smidgen.tape import Tape
    from smidgen.tasks import Task

S = TypeVar("S")
FOLDER = Path(__file__).parent / "methods"


@dataclass(frozen=True)
class Needs:
    """What a method cannot work without."""

    labels: bool = False
    teacher: bool = False
    same_tokenizer: bool = False  # as the teacher
    inside: bool = False  # of the teacher: other taps than `logits`
    online: bool = False  # the teacher runs in each step, on the step's own inputs; nothing of it is kept on disk
    training: bool = False  # another method of the stage has a loss
    examples: bool = False  # `ctx.sight.sample`: rows with labels, or with a teacher's decisions
    rows: bool = False  # `ctx.sight.inputs`: rows without their labels
    task: str = ""  # the only one that it is for


@dataclass(frozen=True)
class Sight:
    """What a method may look at besides the model. All of it is made when it is asked for."""

    training_texts: Callable[[], Iterable[str]] = tuple  # what the stage trains on, second texts of pairs too
    dev_texts: Callable[[], Iterable[str]] = tuple  # all of dev, likewise
    sample: Callable[[int], Iterable[Batch]] = lambda count: ()  # at most so many rows of the stage, drawn by the seed
    inputs: Callable[[int], Iterable[Mapping[str, np.ndarray]]] = lambda count: ()  # the same, as a graph takes them
    dev: Callable[[], Split | None] = lambda: None  # all of dev, with its labels
    dev_loss: Callable[[], float] = lambda: math.nan  # the task's loss of `model`, as it stands, on dev
    meter: Callable[[str], Meter] = lambda unit: Macs(128)  # of what a model costs: macs | float32 | int8


@dataclass(frozen=True)
class Part:
    """What a delta says of one graft, or of weights that are replaced: its kind, settings and tensors of one task."""

    kind: str
    settings: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


@dataclass
class Context:
    """What a method may see and touch.

    `model` is None in a stage that starts from a form without one (`onnx`, `int8`). `skeleton` is the config of a model
    that was adopted, as it was before any edit; None where the stage's model stays. `tokenizer` is the model's where
    it is not the one that the stage starts with.
    """

    source: Path  # the folder that the stage starts from
    target: Path  # the folder being made; only for methods that own their stage
    task: Task
    texts: tuple[tuple[str, str | None], ...]  # some rows of dev, to check and calibrate on
    seed: int
    model: PreTrainedModel | None = None
    teacher_blocks: int = 0  # of the teacher; 0 where there is none, or it has no anatomy
    teacher_width: int = 0
    teacher_heads: int = 0  # 0 also where its blocks have been cut to different ones
    edits: list[Edit] = field(default_factory=list)
    student_taps: set[str] = field(default_factory=lambda: {"logits"})
    teacher_taps: set[str] = field(default_factory=set)
    every_token: bool = False  # `logits` at all real tokens, also where the task decides about some (mask_language)
    sight: Sight = Sight()
    skeleton: PreTrainedConfig | None = None
    tokenizer: Tokenizer | None = None
    corpus: Corpus | None = None  # what a data step grows
    frozen: set[nn.Parameter] = field(default_factory=set)  # of the model, by tune.freeze: no other method thaws them
    shut: Callable[[], Collection[int]] = tuple  # blocks whose feed-forward the stage has shut, at this moment
    found: dict[str, dict[str, Any]] = field(default_factory=dict)  # by method, what it saw on its way, for the record

    def edit(self, edit: Edit) -> None:
        """Apply an edit to the model and record it."""
        from smidgen.surgery import apply

        assert self.model is not None
        apply(self.model, edit)
        self.edits.append(edit)

    def adopt(self, model: PreTrainedModel, tokenizer: Tokenizer | None = None) -> None:
        """Put a new model in the place of the one that the stage started from; edits are recorded anew.

        tokenizer: of its own; None = the one that the stage started with.
        """
        self.model, self.tokenizer, self.skeleton = model, tokenizer, copy.deepcopy(model.config)
        self.edits.clear()

    def listen(self, student: Iterable[str] = (), teacher: Iterable[str] = ()) -> None:
        """Ask for taps; only what is asked for is taken."""
        self.student_taps.update(student)
        self.teacher_taps.update(teacher)


class Method(Generic[S]):
    """Four empty slots. See the module's text."""

    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs()
    accepts: ClassVar[str] = "float"  # the form of the folder it starts from: float | onnx | half | int8
    leaves: ClassVar[str] = "float"  # or texts, of a data step
    new_model: ClassVar[bool] = False  # puts a model of its own in the place of the stage's
    rewrites: ClassVar[bool] = False  # writes into the blocks' weights between steps, into frozen ones too
    picks: ClassVar[bool] = False  # among what others leave to train, so it begins after them
    wraps: ClassVar[bool] = False  # puts modules of another library around the model's, so it begins last of its kind
    remark: ClassVar[str] = ""  # what one has to know of all that it makes; the plan and the report say it

    @property
    def new_tokenizer(self) -> bool:
        """Does it make a tokenizer too, from the texts that the stage trains on?"""
        return False

    @property
    def places(self) -> int:
        """How many of the model's positions does it take from every text?"""
        return 0

    def faults(self) -> Iterator[str]:
        """What is wrong with the settings: got, wanted."""
        return iter(())

    def misfits(self, source: Source) -> Iterator[str]:
        """Why it cannot start from this model: what is lacking, what to write."""
        return iter(())

    def reads(self) -> Mapping[str, str]:
        """What its settings name outside the recipe, a file or this machine, as hashes: the artefact's id has them."""
        return {}

    def looks(self) -> bool:
        """Does it ask for `dev` or `dev_loss`? Dev is then part of the artefact's id."""
        return False

    def frozen(self, blocks: int) -> tuple[int, ...]:
        """The levels of states that it reads of what it keeps frozen through the whole stage, in a model of so many
        blocks: 0 is the embeddings, i the first i blocks. None: it keeps nothing frozen. See `smidgen.frozen`.
        """
        return ()

    def begin(self, ctx: Context) -> S:
        return None  # type: ignore[return-value]

    def loss(self, state: S, tape: Tape) -> dict[str, Tensor]:
        return {}

    def step(self, state: S, t: float) -> None:
        return None

    def thaws(self) -> bool:
        """Does it let what is frozen at first train later in the stage?"""
        return False

    def clashes(self, others: Sequence[Method[Any]]) -> Iterator[str]:
        """Why it cannot share a stage with one of these: what is wrong, what to write."""
        return iter(())

    def reads_labels(self) -> bool:
        """Does it compare with labels?"""
        return self.needs.labels

    def reshapes(self) -> bool:
        """Does it cut, skip or replace parts while the stage trains? Two that do cannot share a stage."""
        return False

    def settled(self, t: float) -> bool:
        """Is the model, at the share t of the stage, of the kind that the stage leaves? Dev chooses among these."""
        return True

    def end(self, state: S, ctx: Context) -> None:
        return None

    def adds(self, state: S, ctx: Context) -> Iterable[Part]:
        """After `end`: what it put beside a model whose body it left as it was, for the folder's delta."""
        return ()

    def found(self, state: S, ctx: Context, folder: Path) -> Mapping[str, Any]:
        """What was measured on the folder that the stage leaves, for its record; `told` says it in a sentence."""
        return {}


def trains(method: Method[Any]) -> bool:
    """Does the method ask for training, by having a loss that can stand alone?"""
    return type(method).loss is not Method.loss and not method.needs.training


def owns_stage(method: Method[Any]) -> bool:
    """Does the method do the whole stage itself, by having `run(ctx)`?"""
    return hasattr(method, "run")


def makes_texts(method: Method[Any]) -> bool:
    """Is it a data step, which leaves texts and no model?"""
    return method.leaves == "texts"


def name_of(method: Method[Any] | type[Method[Any]]) -> str:
    """`prune.layers` for `smidgen.methods.prune.layers.Layers`."""
    cls = method if isinstance(method, type) else type(method)
    return ".".join(cls.__module__.split(".")[-2:])


def settings_of(method: Method[Any]) -> dict[str, Any]:
    """All settings of a method as plain data."""
    return dataclasses.asdict(method)  # type: ignore[call-overload]


def names() -> tuple[str, ...]:
    """All methods there are, by their files; nothing is imported."""
    return tuple(sorted(f"{p.parent.name}.{p.stem}" for p in FOLDER.glob("*/*.py") if p.stem != "__init__"))


def find(name: str) -> type[Method[Any]]:
    """The class of a method.

    Raises:
        RecipeError: no such method.
    """
    if name not in names():
        raise RecipeError([f"{name}: no such method.{did_you_mean(name, names())} See 'smidgen methods'."])
    module = importlib.import_module(f"smidgen.methods.{name}")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    assert len(found) == 1, f"{module.__file__} must define exactly one Method, has {len(found)}"
    return found[0]


@dataclass(frozen=True)
class Page:
    """A method as its file describes it, read without importing it."""

    name: str
    summary: str
    sections: Mapping[str, str]  # Idea, Takes, Leaves, Beside, Fails
    settings: tuple[tuple[str, str, str, str], ...]  # name, type, default, comment


def page(name: str) -> Page:
    """Read a method's docstring and settings from its source; torch is not needed."""
    path = FOLDER / (name.replace(".", "/") + ".py")
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    summary, _, rest = (ast.get_docstring(tree) or "").partition("\n")
    cls = next(n for n in tree.body if isinstance(n, ast.ClassDef) and any("Method" in ast.dump(b) for b in n.bases))
    return Page(name, summary, _sections(rest), tuple(_settings(cls, source.splitlines())))


def markdown(found: Page) -> str:
    """A method's page in Markdown: summary, sections, settings."""
    parts = [f"# {found.name}", found.summary, *(f"**{head}.** {text}" for head, text in found.sections.items())]
    if found.settings:
        rows = [" | ".join(cell.replace("|", "\\|") for cell in setting) for setting in found.settings]
        parts.append(
            "\n".join(["| setting | type | default | meaning |", "|---|---|---|---|", *(f"| {r} |" for r in rows)])
        )
    return "\n\n".join(parts) + "\n"


def _sections(text: str) -> dict[str, str]:
    """`Idea       Words ...` with continuation lines indented."""
    found: dict[str, str] = {}
    current = ""
    for line in text.splitlines():
        if line and not line[0].isspace():
            current, _, line = line.partition(" ")
            found[current] = ""
        if current and line.strip():
            found[current] = f"{found[current]} {line.strip()}".strip()
    return found


def _settings(cls: ast.ClassDef, lines: list[str]) -> Iterator[tuple[str, str, str, str]]:
    for node in cls.body:
        if not isinstance(node, ast.AnnAssign) or "ClassVar" in ast.unparse(node.annotation):
            continue
        _, _, comment = lines[(node.end_lineno or node.lineno) - 1].partition("#")
        default = ast.unparse(node.value) if node.value else ""
        yield ast.unparse(node.target), ast.unparse(node.annotation), default, comment.strip()


# Words for `faults`, so that every method says the same thing the same way.


def share(name: str, value: float) -> Iterator[str]:
    """A fault unless 0 <= value <= 1."""
    if not 0 <= value <= 1:
        yield f"{name}: got {value}, wanted a share from 0 to 1."


def above(name: str, value: float, least: float) -> Iterator[str]:
    """A fault unless value > least, and finite."""
    if not least < value < math.inf:
        yield f"{name}: got {value}, wanted more than {least}."


def at_least(name: str, value: float, least: float) -> Iterator[str]:
    """A fault unless value >= least."""
    if not value >= least:
        yield f"{name}: got {value}, wanted at least {least}."


def between(name: str, value: int, least: int, most: int) -> Iterator[str]:
    """A fault unless least <= value <= most."""
    if not least <= value <= most:
        yield f"{name}: got {value}, wanted a whole number from {least} to {most}."


def one_of(name: str, value: str, options: Iterable[str]) -> Iterator[str]:
    """A fault unless value is one of the options."""
    known = tuple(options)
    if value not in known:
        yield f"{name}: got {value!r}, wanted one of {', '.join(known)}.{did_you_mean(str(value), known)}"
