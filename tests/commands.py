"""The command as a user runs it, without a new process."""

from __future__ import annotations

import io
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import pytest

from smidgen import cli


@dataclass(frozen=True)
class Ran:
    """What a command left: its exit code and what it said."""

    code: int
    out: str
    err: str


def command(line: str, stdin: str = "") -> Ran:
    """Run `smidgen LINE`; words with spaces are quoted as in a shell."""
    with (
        pytest.MonkeyPatch.context() as patch,
        _heard("stdout", 1) as out,
        _heard("stderr", 2) as err,
        pytest.raises(SystemExit) as caught,
    ):
        patch.setattr(sys, "argv", ["smidgen", *shlex.split(line)])
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        cli.main()
    assert isinstance(caught.value.code, int)
    return Ran(caught.value.code, out.pop(), err.pop())


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file of a folder with its bytes, every folder in it with None."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@contextmanager
def _heard(name: str, descriptor: int) -> Iterator[list[str]]:
    """What Python, or a library below it, writes to a stream: the one text of the list, when it is over."""
    found: list[str] = []
    before: IO[str] = getattr(sys, name)
    before.flush()
    saved = os.dup(descriptor)
    with TemporaryFile("w+", encoding="utf-8") as file:
        os.dup2(file.fileno(), descriptor)
        setattr(sys, name, file)
        try:
            yield found
        finally:
            setattr(sys, name, before)
            file.flush()
            os.dup2(saved, descriptor)
            os.close(saved)
            file.seek(0)
            found.append(file.read())
