"""Some rows of a stage's data with the loss of each: what a method looks at before it cuts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from smidgen.tape import listen
from smidgen.tasks import Task
from smidgen.tasks.classify import NO_LABEL

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Batch:
    """Rows padded to the longest of them, on the model's device.

    inputs   what the model takes, by name, each (B, L)
    labels   what the task's loss compares with: (B,), (B, C), (B, T), (B, 2), (B, L), or (N,) of masked tokens
    at       (B, L) bool, the N tokens that are masked; None for other tasks
    """

    task: Task
    inputs: Mapping[str, Tensor]
    labels: Tensor
    at: Tensor | None = None

    def __len__(self) -> int:
        return len(self.inputs["input_ids"])

    def losses(self, model: PreTrainedModel) -> Tensor:
        """(B,) float32: the task's loss of each row, of its words the mean. No row's depends on the others."""
        with listen(model, ("logits",), self.at) as recording:
            logits = recording.read(model(**self.inputs), self.inputs["attention_mask"])["logits"]
        values = self.task.loss(logits.float(), self.labels)
        if self.at is not None:
            known, values = self.at, values.new_zeros(self.at.shape).masked_scatter(self.at, values)
        elif values.dim() == 1:
            return values
        else:
            known = self.labels != NO_LABEL
        return values.sum(-1) / known.sum(-1).clamp(min=1)


def agreed(values: Tensor) -> Tensor:
    """The main process's values, on every process: what is cut by them must be the same on all."""
    if not torch.distributed.is_initialized():
        return values
    sent = values.cuda() if "nccl" in torch.distributed.get_backend() else values
    torch.distributed.broadcast(sent, 0)
    return sent.to(values.device)


def said(make: Callable[[], str]) -> str:
    """A text that the main process makes, on every process; the others wait for it."""
    if not torch.distributed.is_initialized():
        return make()
    text = make().encode() if torch.distributed.get_rank() == 0 else b""
    size = int(agreed(torch.tensor(len(text))))
    sent = torch.tensor(list(text) or [0] * size, dtype=torch.uint8)
    return bytes(agreed(sent).tolist()).decode()


def summed(values: Tensor) -> Tensor:
    """The sum over all processes, on each."""
    return _over_all(values, torch.distributed.ReduceOp.SUM)


def highest(values: Tensor) -> Tensor:
    """The largest over all processes, on each."""
    return _over_all(values, torch.distributed.ReduceOp.MAX)


def _over_all(values: Tensor, by: Any) -> Tensor:
    if not torch.distributed.is_initialized():
        return values
    sent = values.cuda() if "nccl" in torch.distributed.get_backend() else values.clone()
    torch.distributed.all_reduce(sent, by)
    return sent.to(values.device)
