"""Storage that all machines reach and none has as a folder: a bucket, or any place that fsspec knows by a URL.

Work goes on in a folder of this machine. What is finished, an artefact or a shard of labels, is copied to the storage,
the file that makes it whole last, and is brought from there where it is not here. Checkpoints stay on the machine.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smidgen.artefact import draft_of, identity
from smidgen.errors import InputError


@dataclass(frozen=True)
class Far:
    """What is kept under `url`, and the folder of this machine that stands for it."""

    url: str
    root: Path

    def send(self, folder: Path, last: str) -> None:
        """Copy a finished folder there; it counts once it has its file `last`."""
        files, there = self._open(folder)
        if files.exists(f"{there}/{last}"):
            return
        names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
        for name in sorted(names, key=last.__eq__):
            files.makedirs(f"{there}/{name}".rpartition("/")[0], exist_ok=True)
            files.put_file(str(folder / name), f"{there}/{name}")

    def bring(self, folder: Path, last: str) -> None:
        """Copy a finished folder from there, if there is one and none here; published by one rename."""
        files, there = self._open(folder)
        if folder.is_dir() or not files.exists(f"{there}/{last}"):
            return
        draft = draft_of(folder)
        shutil.rmtree(draft, ignore_errors=True)
        for name in files.find(there):
            file = draft / name.rpartition(f"{there}/")[2]
            file.parent.mkdir(parents=True, exist_ok=True)
            files.get_file(name, str(file))
        try:
            draft.rename(folder)
        except OSError:  # another process has been quicker
            shutil.rmtree(draft)
            if not folder.is_dir():
                raise

    def names(self, folder: Path) -> list[str]:
        """What is there under a folder's name."""
        files, there = self._open(folder)
        return sorted(name.rpartition("/")[2] for name in files.ls(there, detail=False)) if files.exists(there) else []

    def _open(self, folder: Path) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        files, path = url_to_fs(f"{self.url}/{folder.relative_to(self.root)}", use_listings_cache=False)
        return files, path.rstrip("/")


def is_url(out: str | Path) -> bool:
    """Also one that was taken for a path, which has one stroke the less."""
    return re.match(r"[A-Za-z][\w+.-]+:/", str(out)) is not None


def near(url: str) -> Far:
    """The storage of a run at a URL, with its folder in this user's cache: the same for all processes of a machine.

    Raises:
        InputError: fsspec cannot open it; the message says what it lacks.
    """
    from fsspec.core import url_to_fs

    if "://" not in url:
        raise InputError(f"--out {url}: a URL is text, such as 's3://bucket/run', and no path. Give it as text.")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "smidgen" / identity(url)
    far = Far(f"{url.rstrip('/')}/stages", cache / "stages")
    try:
        url_to_fs(far.url)
    except (ImportError, ValueError, OSError) as error:
        raise InputError(
            f"--out {url}: {str(error).rstrip('.')}. Give a folder, or a URL that fsspec opens."
        ) from error
    return far
