"""The picture of quality against latency, its axes, and the training curves."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from reports import SAMPLE, lost, missed, untested

from smidgen.axes import log_ticks, ticks
from smidgen.curves import curves
from smidgen.picture import chart, is_free, name_box, picture

pytest.importorskip("jinja2")


def test_the_picture_is_a_still_svg() -> None:
    svg = ElementTree.fromstring(picture(SAMPLE))
    assert svg.get("viewBox") == "0 0 820 420"
    text = " ".join(svg.itertext())
    assert "within the budget" in text and "3 blocks, int8" in text and "TF-IDF" in text
    assert not [node.tag for node in svg.iter() if node.tag.endswith(("script", "style", "image", "foreignObject"))]


def test_the_tour_reads_off_what_the_picture_of_the_demo_shows() -> None:
    docs = Path(__file__).parent.parent / "docs"
    drawn = " ".join(ElementTree.parse(docs / "demo.svg").getroot().itertext()).replace("\u00a0", " ")
    tour = (docs / "compress.md").read_text(encoding="utf-8").partition("## What comes out")[2].partition("\n## ")[0]
    said = re.findall(r"[\d.]+ (?:ms|MB|%)", tour.replace("\n", " "))
    assert "(demo.svg)" in tour and len(said) > 8
    assert [figure for figure in said if figure not in drawn] == []


def test_names_in_the_picture_do_not_overlap() -> None:
    points, frame = chart(SAMPLE)
    boxes = [name_box(point, frame, point.label) for point in points if point.label]
    assert len(boxes) == 7 and {point.role for point in points if point.label} >= {"winner", "teacher"}
    for index, box in enumerate(boxes):
        assert is_free(box, boxes[:index])


def test_dev_only_entries_are_hollow_and_said_to_be() -> None:
    points, frame = chart(SAMPLE)
    assert {point.split for point in points if point.role == "candidate"} == {"dev"}
    assert frame.floor == pytest.approx(0.97 * SAMPLE["teacher"]["numbers"]["quality"]["value"])
    assert len(points) == 7  # all but the three candidates that were never trained


def test_without_a_winner_or_a_test_set() -> None:
    assert 'role="img"' in picture(lost())
    points, _ = chart(missed())
    assert [(point.role, point.split) for point in points if point.name == "3 blocks, int8"] == [("candidate", "test")]
    points, frame = chart(untested())
    assert {point.split for point in points} == {"dev"}
    assert frame.floor == pytest.approx(0.97 * SAMPLE["teacher"]["numbers"]["dev_quality"]["value"])


def test_ticks() -> None:
    assert log_ticks(0.15, 12) == pytest.approx([0.2, 0.5, 1, 2, 5, 10])
    assert ticks(0.7628, 0.923) == pytest.approx([0.8, 0.85, 0.9])


def test_curves_drop_a_lone_term_and_scale_dev_alone() -> None:
    rows = [
        {"step": 0, "loss": 2.0, "terms": {"kl": 2.0}},
        {"step": 10, "loss": 1.0, "terms": {"kl": 1.0}, "dev": 0.8, "lr": 0.0},
    ]
    drawn = curves(rows)
    assert [line.name for line in drawn["loss"]] == ["loss"]
    assert drawn["loss"][0].points == ((0.0, 1.0), (100.0, 20.0))
    assert (drawn["dev"][0].first, drawn["dev"][0].last) == (0.8, 0.8)


def test_the_terms_of_a_method_are_one_line_and_all_lines_share_a_scale() -> None:
    rows = SAMPLE["winner"]["curves"]["student"]
    loss, logits, hidden = curves(rows)["loss"]
    assert (loss.name, logits.name, hidden.name) == ("loss", "distil.logits", "distil.hidden")
    assert logits.first + hidden.first == pytest.approx(loss.first)
    assert logits.last + hidden.last == pytest.approx(loss.last, abs=1e-3)
    assert loss.points[0][1] == 1.0 < logits.points[0][1] < hidden.points[0][1] < 39
    assert curves([{"step": 1}]) == {}
