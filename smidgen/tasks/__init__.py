"""One small file a task: its columns' meaning, its rows of tokens, its loss, its metrics and its answers.

What the rest of the house asks of a task:

    labels, metric, to_data(), config(), from_config(config)
    encode(tokenizer, texts, pairs, max_length) -> Encoded      rows of tokens
    targets(encoded, texts, gold)                               what `loss` compares with, a row or a token
    gather(encoded, values, texts, pairs) -> outputs            what the model said, a text
    decide(outputs), score(outputs, gold), resampled(...)       of texts
    counted(gold)                                               what the answers of a file hold, by name
    no_labels(count)                                            what stands for the labels of texts without any
    loss(logits, labels)                                        (B,), or (B, L) where each token is decided, or (N,)
                                                                of the N tokens that are decided
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from smidgen.errors import InputError, did_you_mean
from smidgen.tasks.answer import Answer
from smidgen.tasks.classify import Classify
from smidgen.tasks.mask_language import MaskLanguage
from smidgen.tasks.several import MARK, Several
from smidgen.tasks.tag import Tag

__all__ = [
    "TASKS",
    "Answer",
    "Classify",
    "MaskLanguage",
    "Several",
    "Tag",
    "Task",
    "from_data",
    "head_of",
    "task_class",
]

Task: TypeAlias = Classify | Several | Tag | Answer | MaskLanguage
TASKS: dict[str, type[Task]] = {kind.name: kind for kind in (Classify, Several, Tag, Answer, MaskLanguage)}


def task_class(name: str) -> type[Task]:
    """The class of a task's name; InputError for an unknown one."""
    if name not in TASKS:
        raise InputError(f"task: got {name!r}, wanted one of {', '.join(TASKS)}.{did_you_mean(name, TASKS)}")
    return TASKS[name]


def from_data(data: Mapping[str, Any]) -> Task:
    """The task that `to_data` wrote."""
    settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items() if k != "name"}
    return task_class(str(data["name"]))(**settings)


def head_of(config: Mapping[str, Any]) -> str:
    """The name of the task that a Hugging Face config has a trained head for; "" for a bare encoder."""
    named = str((config.get("architectures") or [""])[0])
    heads = [n for n, kind in TASKS.items() if named.endswith(kind.hf_class.removeprefix("AutoModel"))]
    if Several.name in heads:  # the same head as a classifier's, with a mark
        return Several.name if config.get(MARK) else Classify.name
    return next(iter(heads), "")
