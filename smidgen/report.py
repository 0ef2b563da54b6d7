"""The report: reads `report.json`, writes a page, a Markdown text, a picture and a model card.

    report.json ──check──► dict ──► html()      one offline page, chart library inlined
                                ──► markdown()  the same facts as text
                                ──► picture()   the chart alone, as SVG without scripts
                                ──► card()      the winner's README.md with front matter

Nothing is computed here that is not in the JSON, except what a picture needs. A number that is missing is shown as
"not measured" and never as 0. Every text of the report (names, labels, reasons) is taken as hostile: the templates
escape by default, and the page forbids itself the network and any script but its own two.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from smidgen.artefact import write_atomic
from smidgen.card import card
from smidgen.errors import ArtefactError
from smidgen.pages import TEMPLATES, lacking, page
from smidgen.picture import KINDS, chart, picture
from smidgen.schema import check

__all__ = ["card", "check", "html", "markdown", "picture", "render"]


def render(folder: Path) -> dict[str, Path]:
    """Write `report.html` and `report.md` beside `folder/report.json`; returns their paths by file name.

    Raises:
        ArtefactError: no report.json, not JSON, or not schema 1.
        MissingExtra: jinja2 or plotly is not installed.
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
    texts = {"report.html": html(report), "report.md": markdown(report)}
    for name, text in texts.items():
        write_atomic(source.with_name(name), text)
    return {name: source.with_name(name) for name in texts}


def html(report: Mapping[str, Any]) -> str:
    """The page: one self-contained HTML text that loads nothing, with the chart library inlined (about 5 MB).

    Its Content-Security-Policy names the hashes of its own two scripts and forbids everything else, so a text of the
    report that found a way through the escaping could still neither run nor load anything.
    """
    check(report)
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as fault:
        raise lacking("plotly") from fault
    points, frame = chart(report)
    scripts = [get_plotlyjs(), (TEMPLATES / "report.js").read_text(encoding="utf-8")]
    more = {
        "style": (TEMPLATES / "report.css").read_text(encoding="utf-8"),
        "scripts": scripts,
        "hashes": [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts],
        "points": points,
        "figure": {"points": [asdict(point) for point in points], "kinds": KINDS, "axes": asdict(frame)},
        "picture": picture(report),
    }
    return page("report.html.j2", report, more)


def markdown(report: Mapping[str, Any]) -> str:
    """The report as GitHub-flavoured Markdown."""
    check(report)
    return page("report.md.j2", report)
