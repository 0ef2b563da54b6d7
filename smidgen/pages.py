"""Templates filled with a report, every expression escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from smidgen import findings, words
from smidgen.curves import curves
from smidgen.errors import MissingExtra

TEMPLATES = Path(__file__).parent / "templates"
FILTERS: tuple[Callable[..., Any], ...] = (
    *(words.plain, words.ms, words.mb, words.gb, words.count, words.seconds),
    *(words.said, words.bounds, words.ranged, words.each, words.pairs, words.settings, words.calls, words.short),
    *(words.served, words.tried),
    *(words.share, words.some, findings.counted, findings.f1, findings.chance),
    curves,
)


def page(template: str, report: Mapping[str, Any], more: Mapping[str, Any] | None = None) -> str:
    """The template filled with the report and what is found in it.

    Raises:
        MissingExtra: jinja2 is not installed.
    """
    return filled(template, {**_view(report), **(more or {})})


def filled(template: str, given: Mapping[str, Any]) -> str:
    """The template filled with what is given; every text made visible, then escaped: for Markdown in .md files, else
    for HTML.

    Raises:
        MissingExtra: jinja2 is not installed.
    """
    try:
        from jinja2 import ChainableUndefined, Environment, FileSystemLoader
        from markupsafe import Markup
    except ImportError as fault:
        raise lacking("jinja2") from fault

    def safe(value: Any) -> Any:
        if hasattr(value, "__html__"):
            return value
        return Markup(words.md(words.visible(value))) if ".md." in template else words.visible(value)

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=ChainableUndefined,
        finalize=safe,
    )
    environment.filters |= {write.__name__: write for write in FILTERS}
    environment.filters["code"] = lambda value: Markup("`" + _line(value).replace("`", "'") + "`")
    environment.filters["verbatim"] = lambda value: Markup(_line(value))
    return environment.get_template(template).render(**given) + "\n"


def styled(anchors: Iterable[str] = ()) -> dict[str, str]:
    """The style sheet of a page, with a ring for the point whose details are open, and its hash for the policy."""
    rings = (
        f':root:has(#{anchor}:target) .point[href="#{anchor}"] .ring{{stroke:var(--ink);stroke-width:2}}'
        for anchor in anchors
    )
    style = "\n".join([(TEMPLATES / "report.css").read_text(encoding="utf-8"), *rings])
    return {"style": style, "hash": base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}


def _line(value: object) -> str:
    return words.visible(words.one_line(value))


def lacking(package: str) -> MissingExtra:
    return MissingExtra(f"a report needs {package}, which is not installed. Type: pip install 'smidgen[train]'")


def _view(report: Mapping[str, Any]) -> dict[str, Any]:
    """What every template is given."""
    compared = findings.compared(report)
    portrait = report.get("portrait") or {}
    everyone = findings.listed(report)
    candidates = ([report["winner"]] if report["winner"] else []) + findings.losers(report)
    return {
        "report": report,
        "task": words.of_task(report["task"]["name"]),
        "metric": words.metric_of(report),
        "headline": findings.headline(report),
        "constraints": findings.constraints(report),
        "chosen": findings.chosen(report),
        "compared": compared,
        "listed": everyone,
        "anchors": {one.entry["name"]: one.anchor for one in reversed(everyone)},
        "candidates": candidates,
        "tried": [entry for entry in candidates if findings.is_trained(entry)],
        "untried": [entry for entry in candidates if not findings.is_trained(entry)],
        "choice": findings.choice(report),
        "alternatives": findings.alternatives(report),
        "portrait": portrait,
        "us": "winner" if report["winner"] else "candidate",
        "types": findings.types(portrait),
        "cost": partial(findings.cost, report),
        "trained": findings.trained(report),
        "percentile": findings.percentile(report),
        "percentiles": findings.percentiles([entry for _, entry in compared]),
        "spent": findings.spent(report),
        "seconds_by_id": findings.seconds_by_id(report),
        "not_measured": words.NOT_MEASURED,
    }
