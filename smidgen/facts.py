"""What is known before anything is trained: the model, the texts, the machine, and a few measurements of shapes.

A shape has untrained weights: what it takes does not depend on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from smidgen.budget import Budget


@dataclass(frozen=True)
class Encoder:
    """The model that was given."""

    reference: str
    family: str
    blocks: int
    hidden: int
    numbers: int  # that it has
    table: int  # of the numbers, in the table of tokens
    limit: int  # tokens that it takes
    trained: bool  # has a head for the task
    mask: bool = True  # has a mask token


@dataclass(frozen=True)
class Texts:
    """The data. Tokens are those of whole texts of train, special ones included."""

    task: str
    metric: str
    classes: int
    train: int
    dev: int
    test: int = 0
    unlabeled: int = 0
    pairs: bool = False
    rarest: tuple[str, int] | None = None  # the class with the fewest examples in train
    floor: float | None = None  # what the most frequent label scores as the only answer
    mean: float = 0.0
    p50: int = 0
    p95: int = 0
    longest: int = 0
    max_length: int = 0  # tokens that texts are cut at
    lost: Mapping[int, float] = field(default_factory=dict)  # share of all tokens behind a cut at so many
    over: float = 0.0  # share of texts longer than the model takes


@dataclass(frozen=True)
class Machine:
    """Where all is measured."""

    cpu: str
    cores: int
    features: tuple[str, ...]
    total_mb: int | None  # of memory
    free_mb: int | None


@dataclass(frozen=True)
class Timed:
    """A shape with untrained weights, in int8, text in to answer out at batch 1."""

    name: str
    kind: str  # whole | cut | bilstm | cnn | static
    blocks: int
    p50_ms: float
    p95_ms: float
    size_mb: float
    p99_ms: float | None = None

    def at(self, percentile: str) -> float:
        return float(getattr(self, f"{percentile}_ms"))


@dataclass(frozen=True)
class Measured:
    """What a few minutes of training, or hours of searching, would hang on."""

    whole: Timed
    cut: Timed | None  # with fewer blocks; None where the model has one
    small: tuple[Timed, ...] = ()  # the best first
    tokenizer_ms: float = 0.0
    had: float = 1.0  # of a processor, while all that was timed; less where something else ran
    bare_mb: float = 0.0  # a process of the runtime before it opens a model
    run_mb: float = 0.0  # with the whole model in int8
    texts_per_s: float | None = None  # of fine-tuning the whole model; None where that was not tried
    train_mb: float | None = None  # its peak
    tokens: int = 0  # of the vocabulary
    used: int = 0  # of these, what prune.vocab would leave
    spared_mb: float = 0.0  # of the int8 folder, by that


@dataclass(frozen=True)
class Facts:
    """All that a rule may look at."""

    model: Encoder
    texts: Texts
    machine: Machine
    measured: Measured
    budget: Budget
    tasks: int = 1  # that one base is to serve
