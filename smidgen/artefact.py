"""The artefact: an immutable folder named by the hash of all that went into it.

A folder is made as a draft (`.draft-...`, marked `.incomplete`), its `smidgen.json` with the size and SHA-256 of each
file is written last, everything is synced to disk, and one rename publishes it. A crash at any moment leaves a draft,
which nothing loads and the next run sweeps away; a folder under its own name is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from smidgen.errors import ArtefactError, Busy

SCHEMA = 1
RECORD = "smidgen.json"
INCOMPLETE = ".incomplete"
TUNED = "serve.json"  # may be written anew on any machine, so that no record holds it
DRAFT = ".draft-"
LAG = 60  # seconds after which a shared folder has to show what another machine wrote


def identity(parts: Any) -> str:
    """16 hex digits of the SHA-256 of plain data, the same on every machine."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with the hash of all that it says, its `digest`, so that a changed word is found out."""
    said = {name: value for name, value in record.items() if name != "digest"}
    return {**said, "digest": identity(said)}


def intact(record: Mapping[str, Any]) -> bool:
    """Is it sealed, and does it say what it said then?"""
    return bool(record.get("digest") == sealed(record)["digest"])


@dataclass(frozen=True)
class Artefact:
    """A published folder and its record."""

    path: Path
    record: Mapping[str, Any]

    @property
    def id(self) -> str:
        return str(self.record["id"])

    @property
    def form(self) -> str:
        return str(self.record["form"])


def open_artefact(path: Path, deep: bool = False, seal: bool = False) -> Artefact:
    """Open a published folder and check that it is whole; `deep` also compares every file's hash.

    Args:
        seal: its record has to be sealed; where it is, it has to be intact anyway.

    Raises:
        ArtefactError: a draft, no record, or a file or a record that is missing or changed.
    """
    if half_written(path):
        raise ArtefactError(f"{path}: half-written. The run that made it was stopped; run the same command again.")
    if not (path / RECORD).is_file():
        raise ArtefactError(f"{path}: not made by smidgen, there is no {RECORD}.")
    for name, (size, digest) in (record := _read_record(path, seal))["files"].items():
        file = path / name
        if not file.is_file() or file.stat().st_size != size or (deep and file_hash(file) != digest):
            raise ArtefactError(f"{path}: {name} is missing or changed. Delete the folder and run the command again.")
    return Artefact(path, record)


def half_written(path: Path) -> bool:
    """Is this a draft, or what is left of one?"""
    return path.name.startswith(DRAFT) or (path / INCOMPLETE).exists()


def _read_record(path: Path, seal: bool) -> dict[str, Any]:
    try:
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
        inside = all((path / name).resolve().is_relative_to(path.resolve()) for name, (_, _) in record["files"].items())
        if inside and (intact(record) or not (seal or "digest" in record)):
            return dict(record)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise ArtefactError(f"{path}: {RECORD} is missing or changed. Delete the folder and run the command again.")


def draft_of(path: Path) -> Path:
    """Where this process, of all on every machine that sees the folder, makes what is to become `path`."""
    return path.with_name(f"{DRAFT}{path.name}-{platform.node()}-{os.getpid()}")


@contextmanager
def publish(path: Path, record: dict[str, Any], seal: bool = False) -> Iterator[Path]:
    """Give a draft folder to fill; on leaving without an exception it becomes `path`, atomically.

    The `record` may be added to while the draft is filled. An existing `path` is replaced.

    Args:
        seal: write the record with its digest, for a folder whose answers depend on what it says.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = draft_of(path)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    (draft / INCOMPLETE).touch()
    try:
        yield draft
        left_out = (draft / INCOMPLETE, draft / TUNED)
        files = sorted(p for p in draft.rglob("*") if p.is_file() and p not in left_out)
        record["schema"] = SCHEMA
        record["files"] = {str(p.relative_to(draft)): [p.stat().st_size, file_hash(p)] for p in files}
        said = sealed(record) if seal else record
        (draft / RECORD).write_text(json.dumps(said, indent=1, ensure_ascii=False), encoding="utf-8")
        _sync(draft)
        (draft / INCOMPLETE).unlink()
        if path.exists():
            old = draft_of(path.with_name(f"old-{path.name}"))
            path.rename(old)
            draft.rename(path)
            shutil.rmtree(old)
        else:
            draft.rename(path)
        _sync_one(path.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def alone(root: Path, wait: bool = False) -> Iterator[None]:
    """Hold a folder for one run; the system lets go of it however the run ends.

    Args:
        wait: until it is free, for what takes moments.

    Raises:
        Busy: another run holds it.
    """
    import fcntl

    root.mkdir(parents=True, exist_ok=True)
    held = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise Busy(f"{root}: another run is working there. Wait for it, or give another --out.") from error
    finally:
        os.close(held)


class Storage(Protocol):
    """Where finished folders are kept besides this machine, see `smidgen.far`."""

    def send(self, folder: Path, last: str) -> None: ...

    def bring(self, folder: Path, last: str) -> None: ...

    def names(self, folder: Path) -> list[str]: ...


class Store:
    """The artefacts of one output folder, one folder per id, and the work in progress.

    executor: who is given work that can be done in parts, as a teacher's labels; None = it is done here, in order.
    far: where what is finished is kept too; None = nowhere else.
    """

    def __init__(self, root: Path, executor: Executor | None = None, far: Storage | None = None) -> None:
        self.root, self.executor, self.far = root, executor, far

    def path(self, id: str) -> Path:
        return self.root / id

    def find(self, id: str) -> Artefact | None:
        """The artefact if it is there and whole."""
        if self.far is not None:
            self.far.bring(self.path(id), RECORD)
        return open_artefact(self.path(id)) if self.path(id).is_dir() else None

    def wait_for(self, id: str) -> Artefact:
        """An artefact that some process has published; a shared folder may show another machine's only after a while.

        Raises:
            ArtefactError: it does not come.
        """
        for _ in range(LAG):
            if (found := self.find(id)) is not None:
                return found
            time.sleep(1)
            list(self.root.iterdir())  # has a network's folder looked at anew
        raise ArtefactError(
            f"{self.path(id)}: another process made it, and it is not seen here. Give an --out that all nodes share."
        )

    def made(self, id: str) -> Artefact:
        """An artefact that this process has published, kept wherever it is to be kept."""
        if self.far is not None:
            self.far.send(self.path(id), RECORD)
        return open_artefact(self.path(id))

    def work(self, id: str) -> Path:
        """Where checkpoints of an unfinished stage live; swept away when the stage is published."""
        return self.root / f".work-{id}"

    def sweep(self) -> None:
        """Remove what a killed run left behind: drafts, and the checkpoints of stages that are published."""
        finished = [self.work(path.name) for path in self.root.iterdir() if not path.name.startswith(".")]
        for left in [*self.root.glob(f"{DRAFT}*"), *self.root.glob(f"*/{DRAFT}*"), *finished]:
            if left.is_file():
                left.unlink()
            else:
                shutil.rmtree(left, ignore_errors=True)


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that it is either the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = draft_of(path)
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _sync(folder: Path) -> None:
    """To disk: every file and folder inside, and the folder itself."""
    for path in (*folder.rglob("*"), folder):
        _sync_one(path)


def _sync_one(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
