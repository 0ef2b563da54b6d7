"""Ten tasks over one base in one bundle, beside a folder for each task, and beside PEFT's own mixed batches.

The deltas hold random numbers, since neither memory nor time depends on them, and are small enough that every task
still reads its text. What is compared is said to answer alike, and how far apart it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch

from smidgen import runtime
from smidgen.bundle import bundle
from smidgen.data import load_data
from smidgen.delta import read, write
from smidgen.exchange import to_peft
from smidgen.grafting import part
from smidgen.grafts import build
from smidgen.measure import entries
from smidgen.measure.memory import memory
from smidgen.measure.speed import latency
from smidgen.merging import merge
from smidgen.runtime.folder import deployed_bytes
from smidgen.source import Source, load_model, resolve
from smidgen.tasks import Classify
from smidgen.tokens import length_limit

Grafts = tuple[tuple[str, dict[str, Any]], ...]
Batch = tuple[list[str], list[str]]  # texts, and the task of each

TOKENS, ROWS, CALLS = 128, 32, 100  # of a text at most; of a batch; of each that is timed
ADAPTER = ("adapter", {"width": 48})
LORA = ("lora", {"rank": 8, "sites": ("query", "value")})
MIXED: tuple[tuple[Grafts, int], ...] = (  # of each task the grafts, and how many labels it has
    ((ADAPTER,), 2),
    ((ADAPTER,), 3),
    ((("adapter", {"width": 16}),), 4),
    ((("adapter", {"width": 16, "kind": "houlsby"}), ("norms", {})), 2),
    ((LORA,), 2),
    ((("lora", {"rank": 4, "sites": ("query", "value")}),), 6),
    ((("bias", {}),), 2),
    ((("bias", {}),), 5),
    ((("prefix", {"length": 16}),), 2),
    ((("scale", {}),), 3),
)
ALIKE: tuple[tuple[Grafts, int], ...] = (((LORA,), 2),) * len(MIXED)  # what PEFT can hold in one batch


def together(model: str, root: Path, seed: int) -> dict[str, Any]:
    base = resolve(model)
    texts = _texts(seed)
    mixed, alike = (_deltas(base, root / name, plan) for name, plan in (("mixed", MIXED), ("alike", ALIKE)))
    folders = {name: root / "merged" / name for name in mixed}
    for name, delta in mixed.items():
        merge(base, delta, folders[name], onnx=True)
    bundles = {name: root / "bundles" / name for name in ("mixed", "alike")}
    for name, deltas in (("mixed", mixed), ("alike", alike)):
        if not bundles[name].is_dir():
            bundle(model, [str(path) for path in deltas.values()], bundles[name])
    batches = _batches(texts, list(mixed), seed)
    return {
        "what": f"{len(MIXED)} tasks over MiniLM-6, float32 graphs, batches of {ROWS} sentences of SST-2, text in to label out",
        "tasks": [{"grafts": [name for name, _ in grafts], "labels": labels} for grafts, labels in MIXED],
        "memory": _memory(bundles["mixed"], folders, texts[: 8 * ROWS]),
        "size_mb": {"bundle": deployed_bytes(bundles["mixed"]) / 1e6, "folders": sum(map(_size, folders.values()))},
        **_times(base, bundles, folders, alike, batches),
        "wanted": {"memory": 1.3, "time": 1.25},
    }


def _memory(folder: Path, folders: Mapping[str, Path], texts: Sequence[str]) -> dict[str, Any]:
    """Of fresh processes without torch: the bundle with rows of all its tasks, and the folder of the first task."""
    names = list(folders)
    whose = [names[i % len(names)] for i in range(len(texts))]
    found = {"bundle": memory(folder, texts, task=whose), "folder": memory(folders[names[0]], texts)}
    return {
        **{name: {"mb": number.value, **number.conditions} for name, number in found.items()},
        "times": found["bundle"].value / found["folder"].value,
    }


def _times(
    base: Source,
    bundles: Mapping[str, Path],
    folders: Mapping[str, Path],
    alike: Mapping[str, Path],
    batches: Sequence[Batch],
) -> dict[str, Any]:
    """Milliseconds a batch of each, interleaved in one run; how far apart the answers of like ones are."""
    many, ten = (runtime.load(bundles[name]) for name in ("mixed", "alike"))
    alone = {name: runtime.load(folder) for name, folder in folders.items()}
    first = next(iter(folders))
    peft = Peft(base, alike)
    candidates: dict[str, Callable[[Batch], Any]] = {
        "bundle, mixed": lambda batch: many.predict(batch[0], task=batch[1]),
        "bundle, one task": lambda batch: many.predict(batch[0], task=first),
        "a folder, one task": lambda batch: alone[first].predict(batch[0]),
        "ten folders, one after the other": functools.partial(_apart, alone),
        "bundle of ten LoRA, mixed": lambda batch: ten.predict(batch[0], task=batch[1]),
        "bundle of ten LoRA, one task": lambda batch: ten.predict(batch[0], task=first),
        "PEFT, mixed": lambda batch: peft.predict(*batch),
        "PEFT, one task": lambda batch: peft.predict(batch[0], [first] * len(batch[0])),
    }
    found = latency(candidates, batches, calls=CALLS, threads=many.threads)
    times = {
        f"{of} / {over}": entries.speedup_data(found[over], found[of])
        for of, over in (
            ("bundle, mixed", "a folder, one task"),
            ("bundle, mixed", "bundle, one task"),
            ("ten folders, one after the other", "bundle, mixed"),
            ("PEFT, mixed", "bundle of ten LoRA, mixed"),
            ("PEFT, mixed", "PEFT, one task"),
        )
    }
    apart = {
        "bundle and folders": _difference(many.predict(*_asked(batches[0])), _apart(alone, batches[0])),
        "bundle and PEFT": _difference(ten.predict(*_asked(batches[0])), peft.predict(*batches[0])),
    }
    told = {name: {"p50_ms": one.p50_ms, "p95_ms": one.p95_ms} for name, one in found.items()}
    return {"milliseconds": told, "times": times, "apart": apart, "threads": many.threads, "calls": CALLS}


class Peft:
    """Ten LoRA in PEFT, which sends the rows of each task through its own in a loop; torch float32."""

    def __init__(self, base: Source, deltas: Mapping[str, Path]) -> None:
        from peft import PeftModel
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(base.path, local_files_only=True)
        self.task, self.length, model = read(next(iter(deltas.values()))).task, _length(base), None
        for name, path in deltas.items():
            folder = path.with_name(f"{path.name}-peft")
            if not folder.is_dir():
                to_peft(read(path), base, folder)
            if model is None:
                model = PeftModel.from_pretrained(load_model(base, self.task, 0), str(folder), adapter_name=name)
            else:
                model.load_adapter(str(folder), adapter_name=name)
        assert model is not None
        self.model: Any = model.eval()

    @torch.inference_mode()
    def predict(self, texts: list[str], tasks: list[str]) -> list[Any]:
        inputs = self.tokenizer(texts, padding=True, truncation=True, max_length=self.length, return_tensors="pt")
        logits = self.model(**inputs, adapter_names=tasks).logits
        return list(self.task.answers(logits.numpy()))


def _apart(models: Mapping[str, Any], batch: Batch) -> list[Any]:
    """Each task's rows by its own model, one model after the other."""
    texts, tasks = batch
    answers: list[Any] = [None] * len(texts)
    for name in dict.fromkeys(tasks):
        at = [i for i, one in enumerate(tasks) if one == name]
        for i, answer in zip(at, models[name].predict([texts[i] for i in at]), strict=True):
            answers[i] = answer
    return answers


def _asked(batch: Batch) -> tuple[list[str], None, list[str]]:
    return batch[0], None, batch[1]


def _difference(ours: Sequence[Any], theirs: Sequence[Any]) -> float:
    """The largest, of the scores of the answers."""
    return max(abs(a["score"] - b["score"]) for a, b in zip(ours, theirs, strict=True))


def _deltas(base: Source, root: Path, plan: Sequence[tuple[Grafts, int]]) -> dict[str, Path]:
    found = {}
    for number, (grafts, labels) in enumerate(plan):
        name = f"task{number}"
        found[name] = root / name
        if not (found[name] / "delta.json").is_file():
            task = Classify(tuple(f"label{i}" for i in range(labels)))
            model = load_model(base, task, number)
            parts = tuple(part(moved(build(model, kind, settings), number)) for kind, settings in grafts)
            write(found[name], base, model, parts, task, _length(base), {"methods": {}})
    return found


@torch.no_grad()
def moved(graft: Any, seed: int) -> Any:
    """Away from where it changes nothing."""
    draw = torch.Generator().manual_seed(seed)
    for name, values in graft.state_dict().items():
        if name == "real":  # which places are the task's own: all
            values.fill_(1.0)
        else:
            values.add_(0.02 * torch.randn(values.shape, generator=draw))
    return graft


def _texts(seed: int) -> list[str]:
    test = load_data(**common.data("sst2")).test
    assert test is not None
    return [str(test.texts[i]) for i in np.random.default_rng(seed).permutation(len(test))]


def _batches(texts: Sequence[str], names: Sequence[str], seed: int) -> list[Batch]:
    """Each with all tasks in it, in any order."""
    draw, pieces = np.random.default_rng(seed), range(0, len(texts) - ROWS + 1, ROWS)
    whose = [names[i % len(names)] for i in range(ROWS)]
    return [(list(texts[at : at + ROWS]), [whose[i] for i in draw.permutation(ROWS)]) for at in pieces]


def _length(base: Source) -> int:
    return min(TOKENS, length_limit(base.path))


def _size(folder: Path) -> float:
    return deployed_bytes(folder) / 1e6
