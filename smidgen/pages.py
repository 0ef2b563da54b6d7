"""Templates filled with a report, every expression escaped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from smidgen import findings, words
from smidgen.curves import curves
from smidgen.errors import MissingExtra

TEMPLATES = Path(__file__).parent / "templates"
FILTERS: tuple[Callable[..., Any], ...] = (
    *(words.plain, words.ms, words.mb, words.gb, words.count, words.seconds),
    *(words.said, words.bounds, words.ranged, words.each, words.pairs, words.settings, words.calls, words.short),
    curves,
)


def page(template: str, report: Mapping[str, Any], more: Mapping[str, Any] | None = None) -> str:
    """The template filled with the report and what is found in it; escaped for Markdown in .md files, else for HTML.

    Raises:
        MissingExtra: jinja2 is not installed.
    """
    try:
        from jinja2 import ChainableUndefined, Environment, FileSystemLoader
        from markupsafe import Markup
    except ImportError as fault:
        raise lacking("jinja2") from fault

    def safe_md(value: Any) -> Any:
        return value if hasattr(value, "__html__") else Markup(words.md(value))

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=ChainableUndefined,
        finalize=safe_md if ".md." in template else None,
    )
    environment.filters |= {write.__name__: write for write in FILTERS}
    environment.filters["code"] = lambda value: Markup("`" + words.one_line(value).replace("`", "'") + "`")
    environment.filters["verbatim"] = lambda value: Markup(words.one_line(value))
    return environment.get_template(template).render(**_view(report), **(more or {})) + "\n"


def lacking(package: str) -> MissingExtra:
    return MissingExtra(f"a report needs {package}, which is not installed. Type: pip install 'smidgen[train]'")


def _view(report: Mapping[str, Any]) -> dict[str, Any]:
    """What every template is given."""
    compared = findings.compared(report)
    return {
        "report": report,
        "task": words.of_task(report["task"]["name"]),
        "metric": words.metric_of(report),
        "headline": findings.headline(report),
        "constraints": findings.constraints(report),
        "chosen": findings.chosen(report),
        "compared": compared,
        "candidates": ([report["winner"]] if report["winner"] else []) + findings.losers(report),
        "trained": findings.trained(report),
        "percentile": findings.percentile(report),
        "percentiles": findings.percentiles([entry for _, entry in compared]),
        "spent": findings.spent(report),
        "seconds_by_id": findings.seconds_by_id(report),
        "not_measured": words.NOT_MEASURED,
    }
