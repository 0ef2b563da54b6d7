"""The report: reads `report.json`, writes a page, a Markdown text, a picture and a model card.

    report.json ──check──► dict ──► html()      one offline page without scripts
                                ──► markdown()  the same facts as text
                                ──► picture()   the chart alone, as SVG without scripts
                                ──► card()      the winner's README.md with front matter

Nothing is computed here that is not in the JSON, except what a picture needs. A number that is missing is shown as
"not measured" and never as 0. Every text of the report (names, labels, reasons) is taken as hostile: the templates
escape by default, and the page forbids itself the network and every script. Colours by choice, details of a point by a
click and all that follows them are style sheet and links.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smidgen.artefact import write_atomic
from smidgen.card import card
from smidgen.errors import ArtefactError
from smidgen.findings import headline, listed
from smidgen.pages import page, styled
from smidgen.picture import chart, drawn, picture
from smidgen.schema import check

__all__ = ["card", "check", "html", "markdown", "picture", "render"]


def render(folder: Path) -> dict[str, Path]:
    """Write `report.html` and `report.md` beside `folder/report.json`; returns their paths by file name.

    Raises:
        ArtefactError: no report.json, not JSON, or not schema 1.
        MissingExtra: jinja2 is not installed.
    """
    report, folder = load(folder), Path(folder)
    texts = {"report.html": html(report), "report.md": markdown(report)}
    for name, text in texts.items():
        write_atomic(folder / name, text)
    return {name: folder / name for name in texts}


def load(folder: Path) -> dict[str, Any]:
    """The report of a run's folder, checked.

    Raises:
        ArtefactError: no report.json, not JSON, or not schema 1.
    """
    source = Path(folder) / "report.json"
    if not source.is_file():
        raise ArtefactError(
            f"{source}: no such file. Wanted the folder that `smidgen compress ... --out DIR` wrote. "
            f"Type: smidgen report DIR"
        )
    try:
        report = json.loads(source.read_text(encoding="utf-8"))
    except ValueError as fault:
        raise ArtefactError(
            f"{source}: not JSON ({fault}). Run the smidgen compress command again: it resumes and writes it anew."
        ) from fault
    check(report)
    return dict(report)


def html(report: Mapping[str, Any]) -> str:
    """The page: one HTML text that loads nothing and runs nothing.

    Its Content-Security-Policy allows its own style sheet, named by its hash, and forbids everything else, scripts
    among it: a text of the report that found a way through the escaping could still do nothing.
    """
    check(report)
    points, frame = chart(report)
    more = {"points": points, "frame": frame, "picture": drawn(points, frame, headline(report), linked=True)}
    return page("report.html.j2", report, more | styled(one.anchor for one in listed(report)))


def markdown(report: Mapping[str, Any]) -> str:
    """The report as GitHub-flavoured Markdown."""
    check(report)
    return page("report.md.j2", report)
