"""Rows that methods look at before they cut: the loss of each, whatever stands beside it, for every task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import LABELS, data_files, language_folder, model_folder, sentences
from test_tag import rows_of, write
from torch import Tensor

from smidgen.batch import Batch, agreed, said
from smidgen.data import Data, load_data
from smidgen.loop import Rows
from smidgen.masking import masker
from smidgen.sampling import batches, decisions, draw
from smidgen.source import load_model, resolve
from smidgen.splits import Split
from smidgen.tasks import Answer, Classify, Several, Tag
from smidgen.tasks.classify import NO_LABEL
from smidgen.tokens import encode, pad_id

torch.set_num_threads(1)
CPU = torch.device("cpu")
LENGTH = 16


def rows_and_model(tmp_path: Path, task: str) -> tuple[Data, Rows, torch.nn.Module]:
    """The training rows of a task and a random model for it."""
    if task == "tag":
        data = load_data(write(tmp_path / "train.jsonl", rows_of(40, 0)), task="tag")
        folder = model_folder(tmp_path / "model")
    else:
        files = data_files(tmp_path)
        data = load_data(files["train"], files["dev"], task=task)
        language = task == "mask_language"
        folder = language_folder(tmp_path / "model") if language else model_folder(tmp_path / "model", labels=LABELS)
    split = data.train
    encoded = encode(data.task, folder, split.texts, None, LENGTH)
    labels = data.task.targets(encoded, split.texts, split.labels)
    rows = Rows(encoded, labels, pad_id(folder), masker=masker(folder, 0) if task == "mask_language" else None)
    return data, rows, load_model(resolve(str(folder)), data.task, 0)


@pytest.mark.parametrize("task", ["classify", "tag", "mask_language"])
def test_a_loss_is_of_its_own_row(task: str, tmp_path: Path) -> None:
    """Alone and cut to its own length a row has the loss that it has in a batch; the batches hold each row once."""
    data, rows, model = rows_and_model(tmp_path, task)
    model.train()
    seen = 0
    for batch in batches(rows, data.task, model, CPU):
        assert not model.training
        losses = batch.losses(model)
        assert losses.shape == (len(batch),) and losses.dtype == torch.float32 and (losses > 0).all()
        for i in (0, len(batch) - 1):
            torch.testing.assert_close(alone(batch, i).losses(model)[0], losses[i], rtol=1e-4, atol=1e-5)
        seen += len(batch)
    assert seen == len(rows) and model.training


def alone(batch: Batch, i: int) -> Batch:
    """One row of a batch, without padding."""
    length = int(batch.inputs["attention_mask"][i].sum())
    inputs = {name: value[i : i + 1, :length] for name, value in batch.inputs.items()}
    if batch.at is not None:
        own = batch.at.nonzero()[:, 0] == i
        return Batch(batch.task, inputs, batch.labels[own], batch.at[i : i + 1, :length])
    return Batch(batch.task, inputs, batch.labels[i : i + 1, *([slice(length)] if batch.labels.dim() == 2 else [])])


def test_a_model_is_left_as_it_was_when_nobody_asks_on(tmp_path: Path) -> None:
    data, rows, model = rows_and_model(tmp_path, "classify")
    model.train()
    found = batches(rows, data.task, model, CPU)
    next(found)
    assert not model.training
    found.close()
    assert model.training


def test_rows_are_drawn_by_the_seed() -> None:
    split = Split("train", tuple(text for text, _ in sentences(30, 0)), None, np.arange(30), "here")
    some, other = draw(split, 8, seed=1), draw(split, 8, seed=2)
    assert len(some) == len(other) == 8 and set(some.texts) != set(other.texts)
    assert some.texts == draw(split, 8, seed=1).texts and some.labels.tolist() == sorted(some.labels)
    assert draw(split, 99, seed=1).texts == split.texts


@dataclass(frozen=True)
class Said:
    """A teacher that says the same of every row."""

    logits: Tensor

    def answers(self, rows: np.ndarray, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"logits": self.logits.expand(len(rows), -1)}


def test_a_teacher_s_decisions_stand_for_labels(tmp_path: Path) -> None:
    data, rows, model = rows_and_model(tmp_path, "classify")
    taught = Rows(rows.encoded, rows.labels, rows.pad_id, teacher=Said(torch.tensor([0.2, 0.7])))
    assert all((batch.labels == 1).all() for batch in batches(taught, data.task, model, CPU))


def test_a_teacher_decides_every_one_of_several_tasks(tmp_path: Path) -> None:
    """The loss of a row is the sum of what it would be in each task, and each gate sees all of them."""
    task = Several(("mood/bad", "mood/good", "stars/1", "stars/2", "stars/3"))
    _, rows, _ = rows_and_model(tmp_path, "classify")
    model = load_model(resolve(str(model_folder(tmp_path / "several"))), task, 0)
    taught = Rows(rows.encoded, rows.labels, rows.pad_id, teacher=Said(torch.tensor([0.2, 0.7, 9.0, 8.0, 7.0])))
    for batch in batches(taught, task, model, CPU):
        assert batch.labels.tolist() == [[1, 2]] * len(batch)
        each = [replace(batch, labels=batch.labels[:, t]).losses(model) for t in range(2)]
        assert all((losses > 0).all() for losses in each)
        torch.testing.assert_close(batch.losses(model), each[0] + each[1])


def test_decisions_of_every_task() -> None:
    mask = torch.tensor([[1, 1, 0]]).bool()
    several = decisions(Classify(LABELS, multi_label=True), torch.tensor([[0.1, -2.0]]), mask, None)
    assert several.tolist() == [[1.0, 0.0]]
    words = torch.tensor([[True, False, False]])
    tags = decisions(Tag(("O", "B-x")), torch.tensor([[[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]]), mask, words)
    assert tags.tolist() == [[1, NO_LABEL, NO_LABEL]]
    moods = Several(("mood/bad", "mood/good", "stars/1", "stars/2", "stars/3"))
    each = decisions(moods, torch.tensor([[0.3, 0.1, 9.0, 8.0, 7.0], [5.0, 6.0, 0.0, 2.0, 1.0]]), mask, None)
    assert each.tolist() == [[0, 2], [1, 3]], "a label of each task, whatever the logits of the others"
    ends = decisions(Answer(), torch.tensor([[[3.0, 0.0], [1.0, 2.0], [9.0, 9.0]]]), mask, None)
    assert ends.tolist() == [[0, 1]], "padding is no place"


def test_one_process_agrees_with_itself() -> None:
    values = torch.rand(3)
    assert agreed(values) is values
    assert said(lambda: "0.5 ms") == "0.5 ms"


def test_a_text_of_the_main_process_reaches_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/ddp", rank=0, world_size=1)
    try:
        assert said(lambda: "0.5 ms, größer") == "0.5 ms, größer"
        assert said(str) == ""
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
        said(lambda: pytest.fail("another process made it too"))
    finally:
        torch.distributed.destroy_process_group()
