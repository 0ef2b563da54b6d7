"""What `compress` leaves in its folder: one winner, and the report of that winner."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from reports import lost

from smidgen.artefact import RECORD, alone
from smidgen.budget import Budget
from smidgen.errors import InputError
from smidgen.outcome import carry_out, deliver
from smidgen.recipe import Files
from smidgen.shapes import Job

pytest.importorskip("jinja2")


def winner(out: Path, record: str | None) -> Path:
    """A folder where the winner goes, with a file in it; record: the text of its smidgen.json."""
    folder = out / "winner"
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text("years of work")
    if record is not None:
        (folder / RECORD).write_text(record)
    return folder


@pytest.mark.parametrize("record", [None, "{", "[]", "3", '{"form": "bundle"}'])
def test_a_folder_of_someone_else_is_left_alone(record: str | None, tmp_path: Path) -> None:
    mine = winner(tmp_path, record)
    before = sorted(tmp_path.rglob("*"))
    said = rf"--out {tmp_path}: {mine} is there and no winner of smidgen compress. Give another --out, or move it away."
    with pytest.raises(InputError, match=said):
        carry_out(Job("no-such-model", Files("no-such-file.csv"), Budget()), tmp_path)
    with pytest.raises(InputError, match=said):  # it came while the search was on
        deliver(tmp_path, None, lost())
    assert sorted(tmp_path.rglob("*")) == before


def test_a_winner_of_before_makes_way(tmp_path: Path) -> None:
    before = winner(tmp_path, '{"numbers": {}}')
    deliver(tmp_path, None, lost())
    assert not before.exists()
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == lost()


def test_two_searches_deliver_one_after_the_other(tmp_path: Path) -> None:
    before = winner(tmp_path, '{"numbers": {}}')
    other = threading.Thread(target=deliver, args=(tmp_path, None, lost()))
    with alone(tmp_path):
        other.start()
        other.join(0.5)
        assert other.is_alive() and before.exists() and not (tmp_path / "report.json").exists()
    other.join(30)
    assert not before.exists() and (tmp_path / "report.json").exists()
