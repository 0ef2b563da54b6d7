"""The winner's model card: its README.md, with the front matter that a model hub reads."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from smidgen.errors import ArtefactError
from smidgen.pages import lacking, page
from smidgen.schema import check
from smidgen.words import known, metric_of

PIPELINES = {
    "classify": "text-classification",
    "tag": "token-classification",
    "answer": "question-answering",
    "embed": "feature-extraction",
    "mask_language": "fill-mask",
}


def card(report: Mapping[str, Any]) -> str:
    """YAML front matter with a model-index, then how to use the winner and its numbers.

    Data files are named without their folders, and a model that is no Hub id is not named.

    Raises:
        ArtefactError: the report has no winner.
        MissingExtra: pyyaml or jinja2 is not installed.
    """
    check(report)
    if report["winner"] is None:
        raise ArtefactError(
            "report.json: winner is null, so there is no model to write a card for. "
            "Loosen the budget and run the smidgen compress command again."
        )
    try:
        import yaml
    except ImportError as fault:
        raise lacking("pyyaml") from fault
    front = yaml.safe_dump(_front(report), sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{front}---\n\n" + page("card.md.j2", report, {"kind": _pipeline(report).replace("-", " ")})


def base_model(report: Mapping[str, Any]) -> str | None:
    """The Hub id the winner came from, or None where it came from elsewhere."""
    own = (report["winner"].get("recipe") or {}).get("model")  # a student that is another pretrained model
    for name in (str(own), str(report["model"]["reference"])):
        if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name):
            return None if Path(name).exists() else name
    return None


def _front(report: Mapping[str, Any]) -> dict[str, Any]:
    winner, pipeline, base = report["winner"], _pipeline(report), base_model(report)
    front: dict[str, Any] = {"library_name": "smidgen", "pipeline_tag": pipeline}
    front["tags"] = ["smidgen", "onnx", "compressed", pipeline]
    if base:
        quantised = "quant." in json.dumps(winner.get("lineage"))
        front |= {"base_model": base, "base_model_relation": "quantized" if quantised else "finetune"}
    quality = winner["numbers"]["quality"]
    if quality and known(quality["value"]) is not None:
        front["model-index"] = [{"name": winner["name"], "results": [_result(report, pipeline, quality)]}]
    return front


def _result(report: Mapping[str, Any], pipeline: str, quality: Mapping[str, Any]) -> dict[str, Any]:
    source = str((report["data"]["test"] or {}).get("source") or "test set")
    kind = {"exact": "exact_match"}.get(quality["metric"], quality["metric"])  # as the Hub calls them
    hub = re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not PurePath(source).suffix
    return {
        "task": {"type": pipeline, "name": report["task"]["name"]},
        "dataset": {
            "name": source if hub else PurePath(source).name,
            "type": source if hub else "custom",
            "split": "test",
        },
        "metrics": [{"type": kind, "value": quality["value"], "name": metric_of(report, quality["metric"])}],
    }


def _pipeline(report: Mapping[str, Any]) -> str:
    return PIPELINES.get(report["task"]["name"], "text-classification")
