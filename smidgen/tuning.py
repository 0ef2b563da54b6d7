"""One task tuned from a base, in one stage, and what is measured of it; `smidgen tune`.

The stage is tune.full's loss with one method of tuning beside it. What it leaves stands in OUT: a delta (delta.json,
delta.safetensors, README.md), or, where the method changes the base itself, OUT/model. OUT/stages holds the work, as
of any recipe, and `tuned.json` in it what was measured, so that nothing is trained or measured twice.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from smidgen.advice import enough_epochs
from smidgen.artefact import RECORD, Artefact, identity, publish, write_atomic
from smidgen.data import Data, Split
from smidgen.delta import RECORD as DELTA
from smidgen.delta import TENSORS, body_hash, write_record
from smidgen.errors import InputError, did_you_mean
from smidgen.grafting import head_names
from smidgen.measure import entries
from smidgen.measure.memory import forget_peak, peak_mb
from smidgen.measure.peers import TorchModel
from smidgen.method import find, names
from smidgen.planner import Plan, plan
from smidgen.recipe import Files, Recipe, Stage, Training, Use, to_data
from smidgen.runner import run
from smidgen.source import MODEL_FILES, Source, load_model, model_bytes, resolve
from smidgen.tunecard import OURS, card
from smidgen.watch import Watch

SCHEMA = 1
FOLDER, FULL = "tune.", "tune.full"
CARD = "README.md"
SMALL = Training(epochs=5, learning_rate=1e-3)  # of methods that train few numbers
# The rate is the source's, mostly; epochs are ours, more where an epoch moves less.
HABITS = {
    "full": Training(epochs=3, learning_rate=1e-4),  # 2e-5 to 5e-5 in Devlin et al. 2019; small encoders like more
    "freeze": Training(epochs=3, learning_rate=1e-4),  # as full
    "sparse": Training(epochs=3, learning_rate=1e-4),  # as full (Ansell et al. 2022)
    "head": Training(epochs=10, learning_rate=1e-3),  # an epoch costs next to nothing
    "bitfit": SMALL,  # 1e-4 to 1e-3 (Ben Zaken et al. 2022)
    "adapter": SMALL,  # 3e-5, 3e-4, 3e-3 were tried (Houlsby et al. 2019); 1e-4 and up to 30 epochs (Pfeiffer 2020)
    "lora": SMALL,  # 5e-4 for RoBERTa-base (Hu et al. 2021)
    "prefix": Training(epochs=5, learning_rate=5e-3),  # 5e-3 to 1e-2 (Liu et al. 2021, P-tuning v2)
    "prompt": Training(epochs=5, learning_rate=1e-2),  # 0.3 with Adafactor (Lester et al. 2021)
    "ladder": Training(epochs=5, learning_rate=3e-3),  # Sung et al. 2022
    "fusion": Training(epochs=5, learning_rate=5e-5),  # Pfeiffer et al. 2021
    "mask": SMALL,  # of the head; the mask has a rate of its own
}
KINDS = {  # of the methods that have several; in place of the method's own
    ("lora", "ia3"): Training(epochs=5, learning_rate=1e-2),  # 3e-3 in Liu et al. 2022; measured at 1e-2
    ("lora", "vera"): Training(epochs=5, learning_rate=1e-2),  # 4e-3 to 1e-2 in Kopiczko et al. 2024
}
# Few trained numbers learn slowly: with 400 to 800 rows these keep 3 to 20 points more of full tuning's score after 16
# epochs than after 4 (docs/evidence.md), so their habit grows where rows are few. Freezing and sparse tuning gain as
# much, but keep the habit of full tuning, with which they are compared.
SLOW = frozenset({"adapter", "bitfit", "lora", "mask", "prefix", "prompt"})


@dataclass(frozen=True)
class Way:
    """A method of tuning with its settings, and how it is trained."""

    method: str  # as `tune.adapter`
    settings: Mapping[str, Any]
    training: Training
    habitual: bool = False  # are the epochs the method's habit?

    @property
    def name(self) -> str:
        settings = ", ".join(f"{key}={value}" for key, value in self.settings.items())
        short = self.method.removeprefix(FOLDER)
        return f"{short}({settings})" if settings else short

    @property
    def methods(self) -> tuple[Use, ...]:
        """Its own, and the task's loss where it has none."""
        own = Use(self.method, dict(self.settings))
        return (Use(FULL), own) if find(self.method).needs.training else (own,)


@dataclass(frozen=True)
class Job:
    """What is tuned on what."""

    model: str
    files: Files
    task: str = "classify"
    seed: int = 0

    def recipe(self, way: Way) -> Recipe:
        stage = Stage("tuned", way.methods, train=way.training)
        return Recipe(self.model, self.files, (stage,), self.task, self.seed, name=way.name)


def known() -> tuple[str, ...]:
    """The methods of tuning that there are, by their short names."""
    return tuple(name.removeprefix(FOLDER) for name in names() if name.startswith(FOLDER))


def way_of(
    method: str,
    settings: Mapping[str, Any] | None = None,
    epochs: float | None = None,
    learning_rate: float | None = None,
    batch_size: int | None = None,
) -> Way:
    """A way by the name of its method, short or whole; what is not given is the method's habit.

    Raises:
        InputError: no such method of tuning.
    """
    short = method.removeprefix(FOLDER)
    if short not in known():
        raise InputError(
            f"--method {method}: no such method of tuning.{did_you_mean(short, known())} Use one of "
            f"{', '.join(known())}, or auto to have several tried."
        )
    given = {"epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size}
    habit = KINDS.get((short, str((settings or {}).get("kind"))), HABITS.get(short, SMALL))
    training = replace(habit, **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]
    return Way(FOLDER + short, settings or {}, training, epochs is None)


def long_enough(way: Way, rows: int) -> Way:
    """With more epochs where they are a habit, too few for so many rows, and the method is a slow one."""
    train = way.training
    if not way.habitual or way.method.removeprefix(FOLDER) not in SLOW:
        return way
    epochs = max(train.epochs, enough_epochs(rows, train.batch_size))
    return replace(way, training=replace(train, epochs=epochs))


@dataclass
class Tuned:
    """A way after its training: its folder and its numbers, in the shape of tune.json."""

    way: Way
    artefact: Artefact
    numbers: dict[str, Any]

    @property
    def delta(self) -> Path | None:
        """The delta's folder; None where the base itself was changed."""
        folder = self.artefact.path / "delta"
        return folder if (folder / DELTA).is_file() else None


@dataclass
class Tuner:
    """Where a task is tuned: the base, the data, and what has been measured so far."""

    job: Job
    out: Path
    watch: Watch
    base: Source
    data: Data
    memo: dict[str, dict[str, Any]] = field(default_factory=dict)  # numbers by the artefact's id
    tested: dict[str, dict[str, Any]] = field(default_factory=dict)  # scores on test, by the ids of both
    said: dict[str, Any] = field(default_factory=dict)  # what each says of dev, by the artefact's id

    @property
    def root(self) -> Path:
        return self.out / "stages"

    @cached_property
    def base_hash(self) -> str:
        return body_hash(self.base)

    @cached_property
    def base_bytes(self) -> int:
        return model_bytes(self.base.path)

    def plan(self, way: Way) -> Plan:
        return plan(self.job.recipe(way), self.data)

    def has(self, way: Way) -> bool:
        """Has it been trained before?"""
        return (self.root / self.plan(way).stages[0].id).is_dir()

    def tune(self, way: Way, watch: Watch | None = None) -> Tuned:
        """Train a way, unless that has been done, and score it on dev."""
        planned = self.plan(way)
        if not (self.root / planned.stages[0].id).is_dir():
            forget_peak()
        (done,) = run(planned, self.root, watch or self.watch)
        numbers = self.memo.setdefault(done.artefact.id, dict.fromkeys(("quality", "dev_quality", "memory_mb")))
        if not done.reused:
            numbers["memory_mb"] = peak_mb()
        found = Tuned(way, done.artefact, numbers)
        if numbers["dev_quality"] is None:
            numbers |= self._counted(found)
            numbers["dev_quality"] = entries.quality_data(self.data.task, self.on_dev(found), self.data.dev)
            self.remember()
        return found

    def test(self, tuned: Tuned) -> None:
        """Score it on test, if there is one and that has not been done."""
        test = self.data.test
        if test is None:
            return
        key = f"{tuned.artefact.id}/{test.fingerprint}"  # an artefact's id knows nothing of test
        if key not in self.tested:
            self.tested[key] = entries.quality_data(self.data.task, self._outputs(tuned, test), test)
            self.remember()
        tuned.numbers["quality"] = self.tested[key]

    def on_dev(self, tuned: Tuned) -> Any:
        """What it says of dev, asked once."""
        if tuned.artefact.id not in self.said:
            self.said[tuned.artefact.id] = self._outputs(tuned, self.data.dev)
        return self.said[tuned.artefact.id]

    def _outputs(self, tuned: Tuned, split: Split) -> Any:
        return TorchModel(tuned.artefact.path, self.data.task).outputs(split.texts, split.pairs)

    def remember(self) -> None:
        memo = {id: {**numbers, "quality": None} for id, numbers in self.memo.items()}
        write_atomic(self.root / "tuned.json", json.dumps({"numbers": memo, "tested": self.tested}, indent=1))

    def _counted(self, tuned: Tuned) -> dict[str, Any]:
        """What was trained and what a task takes on disk."""
        record = tuned.artefact.record
        if tuned.delta is not None:
            trained = json.loads((tuned.delta / DELTA).read_text(encoding="utf-8"))["parameters"]
            size = sum((tuned.delta / name).stat().st_size for name in (DELTA, TENSORS))
        else:
            trained, size = changed(self, tuned.artefact.path), model_bytes(tuned.artefact.path)
        seconds = max(record["seconds"], (record.get("history") or {}).get("seconds", 0.0))
        share = trained["delta"] / max(trained["base"], 1)
        return {"trained": {**trained, "share": share}, "bytes": size, "seconds": round(seconds, 2)}


def begin(job: Job, out: Path, watch: Watch, way: Way) -> Tuner:
    """Check all that was given, before anything is written.

    Raises:
        InputError: the model, the data, a setting, an OUT that holds another task, or work there that cannot be read.
    """
    checked = plan(job.recipe(way))
    job = replace(job, files=replace(job.files, max_length=checked.max_length))  # so that it is looked for once
    tuner = Tuner(job, out, watch, checked.models[job.model], checked.data)
    refuse_other(tuner)
    memo = tuner.root / "tuned.json"
    if memo.is_file():
        try:
            found = json.loads(memo.read_text(encoding="utf-8"))
            tuner.memo, tuner.tested = found["numbers"], found["tested"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{memo}: cannot be read ({error!r}). Delete {tuner.root}, or give another --out."
            ) from error
    return tuner


def tune(job: Job, way: Way, out: Path, watch: Watch) -> dict[str, Any]:
    """Tune one way; gives what OUT/delta.json says, or the same of OUT/model where there is no delta."""
    tuner = begin(job, out, watch, way)
    tuned = tuner.tune(long_enough(way, len(tuner.data.train)))
    tuner.test(tuned)
    return leave(tuner, tuned, out)


def leave(tuner: Tuner, tuned: Tuned, out: Path) -> dict[str, Any]:
    """Put what was tuned where it is found: a delta into `out` itself, a whole model into `out/model`."""
    clear(out)
    record = described(tuner, tuned)
    if tuned.delta is None:
        folder = tuned.artefact.path
        told = {name: record[name] for name in ("data", "numbers")}
        with publish(out / "model", {**tuned.artefact.record, **told}) as draft:
            for name in MODEL_FILES:
                if (folder / name).is_file():
                    shutil.copyfile(folder / name, draft / name)
            (draft / CARD).write_text(card(record), encoding="utf-8")
        return record
    out.mkdir(parents=True, exist_ok=True)
    draft = out / f".draft-{TENSORS}"
    shutil.copyfile(tuned.delta / TENSORS, draft)
    draft.replace(out / TENSORS)
    write_atomic(out / CARD, card(record))
    write_record(out, record)  # last: it is whole
    return record


def described(tuner: Tuner, tuned: Tuned) -> dict[str, Any]:
    """A delta's record with what is known of its making; of a whole model the same, without a file and parts."""
    job, data, base = tuner.job, tuner.data, tuner.base
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "base": {"hash": tuner.base_hash, "model": base.reference, "family": base.family},
        "task": data.task.to_data(),
        "max_length": tuned.artefact.record["max_length"],
        "methods": tuned.artefact.record["methods"],
    }
    if tuned.delta is not None:
        record = json.loads((tuned.delta / DELTA).read_text(encoding="utf-8"))
    splits = {name: getattr(data, name) for name in ("train", "dev", "test")}
    return {
        **record,
        "leaves": "model" if tuned.delta is None else "delta",
        "method": tuned.way.method,
        "seed": job.seed,
        "train": to_data(tuned.way.training),
        "data": {
            name: split and {"source": split.source, "rows": len(split), "fingerprint": split.fingerprint}
            for name, split in splits.items()
        },
        "numbers": tuned.numbers,
    }


def refuse_other(tuner: Tuner) -> None:
    """Refuse an OUT in which another task lies, or something that is not ours.

    Raises:
        InputError: a delta or a model of other labels, or of other data from another file; a README.md of someone else.
    """
    page = tuner.out / CARD
    if page.is_file() and OURS not in page.read_text(encoding="utf-8", errors="replace")[:200]:
        raise InputError(f"--out {tuner.out}: has a {CARD} that smidgen did not write. Give a folder of its own.")
    for place in (tuner.out / DELTA, tuner.out / "delta" / DELTA, tuner.out / "model" / RECORD):
        if not place.is_file():
            continue
        try:
            record = json.loads(place.read_text(encoding="utf-8"))
            there, train = record["task"], (record.get("data") or {}).get("train") or {}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(
                f"--out {tuner.out}: {place.relative_to(tuner.out)} there is not smidgen's, or not whole. Give another "
                "--out, or delete it."
            ) from None
        own, split = tuner.data.task.to_data(), tuner.data.train
        same = identity({**there, "metric": None}) == identity({**own, "metric": None})
        moved = train and train["source"] != split.source and train["fingerprint"] != split.fingerprint
        if not same or moved:
            told = f"{there['name']}: {', '.join(there.get('labels') or ())}"
            told += f"; {train['source']}" if train else ""
            raise InputError(
                f"--out {tuner.out}: {place.relative_to(tuner.out)} there is of another task ({told}). Give another "
                "--out, or delete that folder."
            )


def clear(out: Path) -> None:
    """Take away what an earlier tuning left in OUT; the work in OUT/stages stays."""
    for name in (DELTA, TENSORS, CARD, "tune.json", "tune.md"):
        (out / name).unlink(missing_ok=True)
    for name in ("delta", "model"):
        if (out / name / DELTA).is_file() or (out / name / RECORD).is_file():
            shutil.rmtree(out / name)


def changed(tuner: Tuner, folder: Path) -> dict[str, int]:
    """How many numbers of the base a stage has changed, how many are the head's, how many the base has."""
    import torch

    task = tuner.data.task
    model, before = (load_model(source, task, tuner.job.seed) for source in (resolve(str(folder)), tuner.base))
    head, old = head_names(model, tuner.base.path), dict(before.named_parameters())
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    moved = [
        name
        for name, p in model.named_parameters()
        if name not in head and (name not in old or not torch.equal(p, old[name]))
    ]
    return {
        "delta": sum(sizes[name] for name in moved),
        "head": sum(size for name, size in sizes.items() if name in head),
        "base": sum(size for name, size in sizes.items() if name not in head),
    }
