"""Batches of some rows that a stage trains on, for methods that measure on them before the stage begins."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from smidgen.batch import Batch
from smidgen.loop import Rows
from smidgen.source import taken
from smidgen.splits import Split
from smidgen.tasks import MaskLanguage, Several, Task
from smidgen.tasks.classify import NO_LABEL

ROWS = 32  # a batch


def draw(split: Split, count: int, seed: int) -> Split:
    """`count` examples of a split at random, in their order; all of them where it has no more."""
    mixed = np.random.default_rng(seed).permutation(len(split))
    return split.take(np.sort(mixed[:count]))


def batches(
    rows: Rows, task: Task, model: PreTrainedModel, device: torch.device, some: np.ndarray | None = None
) -> Iterator[Batch]:
    """All rows, or some, the short ones first. While they are asked for, the model is on `device` and in evaluation
    mode.

    Rows with a teacher have its decisions in the place of labels. (Not its soft answers: a model that starts from its
    teacher says the same, and the gradient of the distance is then 0 everywhere.)
    """
    some, before = np.arange(len(rows)) if some is None else some, (model.device, model.training)
    order = some[np.argsort(rows.encoded.lengths[some], kind="stable")]
    nn.Module.to(model, device).eval()
    try:
        for piece in np.array_split(order, math.ceil(len(order) / ROWS)):
            yield _batch(rows, piece, task, model)
    finally:
        nn.Module.to(model, before[0]).train(before[1])


@torch.inference_mode()
def mean_loss(model: PreTrainedModel, task: Task, rows: Rows, most: int = 256) -> float:
    """The mean of the losses of at most so many rows, spread over all that have a label."""
    known = np.flatnonzero(rows.labelled)
    some = known[np.linspace(0, len(known) - 1, min(most, len(known))).astype(int)]
    losses = [batch.losses(model) for batch in batches(rows, task, model, model.device, some)]
    return float(torch.cat(losses).mean())


def _batch(rows: Rows, piece: np.ndarray, task: Task, model: PreTrainedModel) -> Batch:
    arrays = rows.encoded.batch(piece, rows.pad_id)
    labels, units = rows.targets(piece), rows.decided(piece)
    masked = units if isinstance(task, MaskLanguage) else None
    if rows.masker is not None and units is not None:
        arrays["input_ids"], labels, masked = rows.masker.draw(arrays["input_ids"], units, piece, 0)
    if masked is not None:
        labels = labels[masked]
    inputs = {name: torch.from_numpy(value).to(model.device) for name, value in arrays.items()}
    wanted, at = (None if array is None else torch.from_numpy(array).to(model.device) for array in (labels, masked))
    assert wanted is not None
    if rows.teacher is not None:
        said = rows.teacher.answers(piece, inputs)["logits"]
        decided = None if units is None else torch.from_numpy(units).to(model.device)
        wanted = decisions(task, said, inputs["attention_mask"].bool(), decided)
    return Batch(task, taken(model, inputs), wanted, at)


def decisions(task: Task, logits: Tensor, mask: Tensor, units: Tensor | None) -> Tensor:
    """What logits say, as labels of the task: (B, C) to (B,), or to (B, C) of 0 and 1 where classes do not exclude each
    other, or to (B, T), a label of each of several tasks; (B, L, C) to (B, L), NO_LABEL outside of `units`; (B, L, 2)
    to the places of start and end, (B, 2)."""
    if task.name == "answer":
        return logits.masked_fill(~mask[..., None], -math.inf).argmax(1)
    if isinstance(task, Several):
        return torch.stack([logits[:, at].argmax(-1) + at.start for at in task.segments], -1)
    if task.multi_label:
        return (logits > 0).float()
    found = logits.argmax(-1)
    return found if units is None else found.masked_fill(~units, NO_LABEL)
