"""Runs side by side: a row each, one picture, and what cannot be compared."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from commands import command
from reports import lost, missed, sample

from smidgen import comparison
from smidgen.errors import ArtefactError

pytest.importorskip("jinja2")


def faster() -> dict[str, Any]:
    found = sample()
    found["winner"]["numbers"]["latency"] |= {"p50_ms": 0.41, "p95_ms": 0.62}
    return found


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    found = []
    for name, report in (("a/one", sample()), ("a/two", faster()), ("none", lost()), ("missed", missed())):
        found.append(tmp_path / name)
        found[-1].mkdir(parents=True)
        (found[-1] / "report.json").write_text(json.dumps(report), encoding="utf-8")
    return found


def test_a_row_a_run_and_one_picture(folders: list[Path], tmp_path: Path) -> None:
    written = comparison.render(folders, tmp_path / "out")
    page, text, data = (written[name].read_text(encoding="utf-8") for name in comparison.NAMES)
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(comparison.NAMES)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows] == ["| Run", "| a/one", "| a/two", "| none", "| missed"]
    assert "1.21\u00a0ms / 1.43\u00a0ms" in rows[1] and "0.410\u00a0ms / 0.620\u00a0ms" in rows[2]
    assert "p95 2.00\u00a0ms, 25.0\u00a0MB, quality 97%teacher" in rows[1] and "✓ met" in rows[1]
    assert "| none | not measured |" in rows[3] and "✗ not met" in rows[4] and "95.9\u00a0%" in rows[4]
    assert "4 runs, 2 of which met their budget" in page and page.count("<tr>") == 5
    links = re.findall(r'class="point" href="([^"]*)"', page)
    assert sorted(links) == ["../a/one/report.html", "../a/two/report.html", "../missed/report.html"]
    assert [run["run"] for run in json.loads(data)["runs"]] == ["a/one", "a/two", "none", "missed"]
    assert str(tmp_path) not in page + text + data, "no folder of this machine"


def test_what_cannot_be_compared_is_said(folders: list[Path], tmp_path: Path) -> None:
    runs = comparison.read(folders[:2], tmp_path)
    assert comparison.notes(runs) == [
        "Each run was timed by itself: a few percent between two runs is the machine, not the models."
    ]
    other = faster()
    other["data"]["test"]["fingerprint"] = "another"
    other["environment"]["cpu"] = "another"
    other["task"]["metric"] = "f1"
    other["budget"] = dict.fromkeys(other["budget"])
    (folders[1] / "report.json").write_text(json.dumps(other), encoding="utf-8")
    runs = comparison.read(folders[:2], tmp_path)
    assert [comparison.row(run).budget for run in runs][1] == "none"
    told = " ".join(comparison.notes(runs))
    assert "different test data" in told and "different machines" in told and "different metrics" in told


def test_one_axis_has_one_percentile_and_links_are_quoted(folders: list[Path], tmp_path: Path) -> None:
    """That of the first run, whatever the budgets of the others are of."""
    other = sample()
    other["budget"]["latency"]["percentile"] = "p50"
    (folders[1] / "report.json").write_text(json.dumps(other), encoding="utf-8")
    strange = folders[1].rename(folders[1].with_name("b #2"))
    points, axes = comparison._points(comparison.read([folders[0], strange], tmp_path))
    assert len({point.latency for point in points}) == 1 and "p95" in str(axes)
    assert any(point.link.endswith("b%20%232/report.html") for point in points)


def test_hostile_names_stay_names(folders: list[Path], tmp_path: Path) -> None:
    evil = sample()
    evil["winner"]["name"] = evil["model"]["reference"] = "<script>alert(1)</script>\u202e|"
    (folders[0] / "report.json").write_text(json.dumps(evil), encoding="utf-8")
    runs = comparison.read(folders, tmp_path)
    for text in (comparison.page(runs), comparison.markdown(runs)):
        assert "<script" not in text and "&lt;script&gt;" in text and "\u202e" not in text


def test_the_command_compares_several_and_says_what_is_wrong(folders: list[Path], tmp_path: Path) -> None:
    line = f"report {folders[0]} {folders[1]} --out {tmp_path / 'out'}"
    assert command(line).out.split() == [str(tmp_path / "out" / name) for name in comparison.NAMES]
    found = json.loads(command(f"{line} --json").out)
    assert [run["verdict"] for run in found["runs"]] == ["met", "met"]
    assert command(f"report {folders[0]}").out.split() == [str(folders[0] / f"report.{end}") for end in ("html", "md")]
    with pytest.raises(ArtefactError, match=r"named twice\. Give each run once\."):
        comparison.read([folders[0], folders[0] / ".." / "one"], tmp_path)
    ran = command(f"report {folders[0]} {tmp_path}")
    assert ran.code == 2 and "no report.json in it" in ran.err
