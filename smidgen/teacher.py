"""What a teacher says. The loop asks `answers(rows, inputs)` and need not know where they come from.

`Labels`: from disk, computed once, read by every student, epoch and run that asks. `Online`: from the teacher itself,
in each step, for what is too big for a disk or depends on inputs made anew. `Mean`: from several, averaged.

A folder per (teacher, tokenizer, length, taps) holds shards (`smidgen.shards`) of up to `SHARD` examples with, for each
tap, one float16 array: `logits` (n, C), or a ragged one, (tokens, H) or (tokens, heads, head_size), for what has a row
per token, as logits have where each token is decided. Rows are found by example key, so shuffling, new rows and other
students cost nothing; neither do fewer taps than were asked for before.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from smidgen.artefact import Storage, identity
from smidgen.data import Split
from smidgen.encoded import Encoded
from smidgen.errors import ModelError
from smidgen.halves import autocast
from smidgen.shards import Found, Shard, claim, lacking, locate, open_shards, place, publish
from smidgen.source import Source, auto_class, open_config, taken, takes_types
from smidgen.tape import SQUARE, listen
from smidgen.tasks import Task
from smidgen.tokens import encode, pad_id

SHARD = 2048
LAST = "keys.npy"  # of a shard in storage: it is whole once it has this file
TOLD = 256  # rows of a shard after which it is told how far it is
AT_ONCE = 4  # shards in one piece of work that is given away: the teacher is loaded once for them
PER_TOKEN = ("embeddings", "hidden", "query", "key", "value")  # endings of the taps that have a row per token


class Teacher(Protocol):
    """Answers to the rows of one micro-batch."""

    def answers(self, rows: np.ndarray, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The asked taps by name, float32, on the inputs' device and of their length.

        Args:
            rows: (B,) indices of the rows in the split.
            inputs: what the student reads: `input_ids`, `attention_mask` and `token_type_ids`, each (B, L); and `at`,
                (B, L) bool, where only the logits of these tokens are wanted, see `smidgen.tape.listen`.
        """
        ...


@dataclass(frozen=True)
class Labels(Found):
    """A teacher's answers for the rows of one split."""

    taps: tuple[str, ...]
    ragged: frozenset[str]  # the taps that have a row per token

    def answers(self, rows: np.ndarray, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        ids = inputs["input_ids"]
        return {tap: torch.from_numpy(value).to(ids.device) for tap, value in self.rows(rows, ids.shape[1]).items()}

    def rows(self, rows: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """Answers for some rows, float32: `logits` (B, C); per-token taps, padded with zeros, (B, length, H) or, of
        heads, (B, heads, length, head_size)."""
        return {tap: self._one(tap, rows, length).astype(np.float32) for tap in self.taps}

    def _one(self, tap: str, rows: np.ndarray, length: int) -> np.ndarray:
        if tap not in self.ragged:
            return self.flat(tap, rows)
        found = self.padded(tap, rows, length)
        return found.swapaxes(1, 2) if found.ndim == 4 else found


@dataclass(frozen=True)
class Words:
    """A tagger's answers for a student whose tokenizer cuts words otherwise: word by word, at the first token of each.

    `source` (total,) is, for each token of the student's rows, the teacher's token of the same word in the same row;
    -1 at tokens that begin no word.
    """

    labels: Labels
    encoded: Encoded  # the student's rows
    source: np.ndarray

    def answers(self, rows: np.ndarray, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        at = self.encoded.padded(self.source, rows, -1)
        said = self.labels.rows(rows, max(inputs["input_ids"].shape[1], int(self.labels.lengths(rows).max())))["logits"]
        picked = np.take_along_axis(said, np.maximum(at, 0)[..., None], 1)
        return {"logits": torch.from_numpy(np.where(at[..., None] >= 0, picked, 0)).to(inputs["input_ids"].device)}


@dataclass(frozen=True)
class Online:
    """A teacher that is asked in each step, frozen and without dropout, on the student's own inputs."""

    model: PreTrainedModel
    taps: tuple[str, ...]

    @torch.no_grad()
    def answers(self, rows: np.ndarray, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        assert not self.model.training
        asked = {name: value for name, value in taken(self.model, inputs).items() if name != "at"}
        with listen(self.model, self.taps, inputs.get("at")) as recording:
            outputs = self.model(**asked)
        return {tap: value.float() for tap, value in recording.read(outputs, inputs["attention_mask"]).items()}


@dataclass(frozen=True)
class Mean:
    """Several teachers' answers, averaged. Only logits mean the same in each of them."""

    teachers: tuple[Teacher, ...]

    def answers(self, rows: np.ndarray, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        said = [teacher.answers(rows, inputs) for teacher in self.teachers]
        return {"logits": torch.stack([each["logits"] for each in said]).mean(0)}


def too_big(taps: Iterable[str]) -> bool:
    """Is one of these taps too big for a disk, so that the teacher must be asked in each step?"""
    return any(tap.endswith(SQUARE) for tap in taps)


def online(teacher: Source, task: Task, taps: Iterable[str], device: torch.device) -> Online:
    """Load a teacher to be asked in each step; any tap, in the teacher's own block numbers."""
    model = _load(teacher, task)
    nn.Module.to(model, device)
    return Online(model.requires_grad_(False), tuple(sorted(taps)))


def per_token(tap: str, task: Task) -> bool:
    """Has this tap a row for each token?"""
    return tap.endswith(PER_TOKEN) or (tap == "logits" and task.per_token)


def fingerprint(teacher: Source, taps: Iterable[str], max_length: int, precision: str = "float32") -> str:
    """Names what a label depends on besides the example itself."""
    return identity([teacher.id, teacher.tokenizer_id, max_length, sorted(taps), precision, "float16"])


def label(
    teacher: Source,
    task: Task,
    split: Split,
    taps: Iterable[str],
    max_length: int,
    root: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
    precision: torch.dtype = torch.float32,
    executor: Executor | None = None,
    far: Storage | None = None,
) -> Labels:
    """Labels for every row of tokens of a split, from disk where they are there, else from the teacher.

    Args:
        taps: any but `scores` and `probs`, which grow with the square of the length; in the teacher's own block
            numbers.
        root: the folder that holds the label folders.
        progress: called with (rows labelled, rows to label).
        precision: what the teacher computes in; the store is float16.
        executor: who makes the shards, several at a time; None = they are made here, in order.
        far: where shards are kept besides `root`.

    Raises:
        ArtefactError: the folder holds the labels of something else.
    """
    asked = tuple(sorted(taps))
    assert not too_big(asked), f"{asked}: ask online"
    keys, encoded = split.keys, None
    if task.name == "answer":  # a row is a window
        encoded = encode(task, teacher.path, split.texts, split.pairs, max_length)
        keys = row_keys(encoded, keys)
    in_what = str(precision).removeprefix("torch.")

    def there(taps: Iterable[str]) -> Path:
        return root / f"labels-{fingerprint(teacher, taps, max_length, in_what)}"

    known = (asked, *_wider(root, teacher, asked, max_length, in_what))
    taken = min(known, key=lambda taps: len(lacking(open_shards(there(taps)), keys)))
    folder, print_ = there(taken), fingerprint(teacher, taken, max_length, in_what)
    about = {"fingerprint": print_, "teacher": teacher.id, "taps": list(taken), "max_length": max_length}
    claim(folder, about, "labels")
    request = _Request(teacher, task, taken, max_length, precision, folder, far)
    shards = request.shards()
    if parts := _parts(shards, keys):
        rows_of = split.take if encoded is None else encoded.take
        work = [(keys[part], rows_of(part)) for part in parts]
        if executor is None or len(work) <= AT_ONCE:
            request.make(work, progress)
        else:
            groups = [work[i : i + AT_ONCE] for i in range(0, len(work), AT_ONCE)]
            first = os.getpid() % len(groups)  # two that want the same labels at once begin at different places
            done, order = 0, groups[first:] + groups[:first]
            for group, _ in zip(order, executor.map(request.make, order), strict=True):
                done += _rows_of(group)
                progress(done, _rows_of(work))
        shards = request.shards()
    return Labels(shards, *locate(shards, keys), asked, frozenset(tap for tap in asked if per_token(tap, task)))


def _wider(
    root: Path, teacher: Source, asked: tuple[str, ...], max_length: int, precision: str
) -> Iterator[tuple[str, ...]]:
    """More taps than these that there are labels of already, made in the same way."""
    for file in sorted(root.glob("labels-*/about.json")):
        about = json.loads(file.read_text(encoding="utf-8"))
        taps = tuple(about["taps"])
        if set(asked) < set(taps) and about["fingerprint"] == fingerprint(teacher, taps, max_length, precision):
            yield taps


def row_keys(encoded: Encoded, keys: np.ndarray) -> np.ndarray:
    """(rows,) uint64: the key of a row's example and its place among the rows of it."""
    assert encoded.example is not None
    first = np.searchsorted(encoded.example, encoded.example)  # rows of an example stand together
    place = (np.arange(len(encoded)) - first).astype(np.uint64)
    return keys[encoded.example] ^ (place * np.uint64(0x9E3779B97F4A7C15))


def _parts(shards: Iterable[Shard], keys: np.ndarray) -> list[np.ndarray]:
    """The rows that no shard has, as they will stand in new ones. The cuts follow from all the keys, whatever is there
    already, so that all who label the same rows make the same shards."""
    missing, every = lacking(shards, keys), lacking((), keys)
    cuts = np.flatnonzero(np.diff(np.searchsorted(every, missing) // SHARD)) + 1
    return np.split(missing, cuts) if len(missing) else []


@dataclass(frozen=True)
class _Request:
    """Makes the shards of a folder. It can be sent to another process."""

    teacher: Source
    task: Task
    taps: tuple[str, ...]
    max_length: int
    precision: torch.dtype
    folder: Path
    far: Storage | None

    def shards(self) -> tuple[Shard, ...]:
        """All that there are."""
        if self.far is not None:
            for name in self.far.names(self.folder):
                self.far.bring(self.folder / name, LAST)
        return open_shards(self.folder)

    def make(
        self,
        work: Work,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Publish the shard of each pair of keys and rows, but for those that have appeared meanwhile."""
        answer, done, total = _asker(self.teacher, self.task, self.taps, self.precision), 0, _rows_of(work)
        for keys, rows in work:
            if not place(self.folder, keys).is_dir():
                encoded = rows if isinstance(rows, Encoded) else self._encoded(rows)
                publish(self.folder, keys, answer(encoded, partial(_told, progress, done, len(keys), total)))
                if self.far is not None:
                    self.far.send(place(self.folder, keys), LAST)
            done += len(keys)
            progress(done, total)

    def _encoded(self, split: Split) -> Encoded:
        return encode(self.task, self.teacher.path, split.texts, split.pairs, self.max_length)


Work = Sequence[tuple[np.ndarray, Split | Encoded]]
Answer = Callable[[Encoded, Callable[[float], None]], dict[str, np.ndarray]]


def _rows_of(work: Work) -> int:
    return sum(len(keys) for keys, _ in work)


def _told(progress: Callable[[int, int], None], done: int, rows: int, total: int, share: float) -> None:
    """A share of some rows is done, and what was before them."""
    progress(done + int(share * rows), total)


def _asker(teacher: Source, task: Task, taps: tuple[str, ...], precision: torch.dtype) -> Answer:
    """A function from rows to arrays, in their order, that tells what share of the tokens is done; the teacher is
    loaded once."""
    model = _load(teacher, task)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    nn.Module.to(model, device)
    pad = pad_id(teacher.path)
    uses_types = takes_types(model)

    @torch.inference_mode()
    def answer(encoded: Encoded, progress: Callable[[float], None]) -> dict[str, np.ndarray]:
        assert not model.training
        found: dict[int, dict[str, np.ndarray]] = {}
        by_length, rows = np.argsort(encoded.lengths, kind="stable"), range(len(encoded))
        tokens = np.cumsum(encoded.lengths[by_length])
        for start in range(0, len(by_length), 64):
            if start and start % TOLD == 0:
                progress(float(tokens[start - 1] / tokens[-1]))
            picked = by_length[start : start + 64]
            batch = {k: torch.from_numpy(v).to(device) for k, v in encoded.batch(picked, pad).items()}
            if not uses_types:
                del batch["token_type_ids"]
            with (
                autocast(device, precision),
                listen(model, taps) as recording,
            ):
                outputs = model(**batch)
            heard = {k: _stored(v) for k, v in recording.read(outputs, batch["attention_mask"]).items()}
            for b, row in enumerate(picked):
                length = encoded.lengths[row]
                found[int(row)] = {k: v[b, :length] if per_token(k, task) else v[b] for k, v in heard.items()}
        arrays = {
            tap: np.concatenate([found[i][tap] for i in rows])
            if per_token(tap, task)
            else np.stack([found[i][tap] for i in rows])
            for tap in taps
        }
        return {**arrays, "starts": encoded.starts}

    return answer


def _stored(value: Tensor) -> np.ndarray:
    """As it goes on disk: half precision, what is of heads with the tokens first."""
    return (value.transpose(1, 2) if value.dim() == 4 else value).half().cpu().numpy()


def _load(teacher: Source, task: Task) -> PreTrainedModel:
    """Any Hugging Face model with the task's head can teach, with or without an anatomy."""
    if teacher.head != task.name:
        raise ModelError(
            f"{teacher.reference}: a bare encoder has no answers to teach. Train it first (a stage with tune.full), or "
            f"give a model that was trained to {task.name}."
        )
    model = auto_class(task).from_pretrained(
        str(teacher.path),
        config=open_config(teacher),
        local_files_only=True,
        use_safetensors=True,
        dtype=torch.float32,
    )
    if task.labels and model.config.num_labels != len(task.labels):
        raise ModelError(
            f"{teacher.reference}: has {model.config.num_labels} outputs, the data has {len(task.labels)} labels."
        )
    if teacher.labels not in (None, task.labels):
        raise ModelError(
            f"{teacher.reference}: its outputs are {', '.join(teacher.labels or ())}, the data's labels are "
            f"{', '.join(task.labels)}, in these orders. Give a teacher for the data's labels."
        )
    model.eval()
    return model
