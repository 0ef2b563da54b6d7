"""Write docs/evidence.md from the result files, so that no number in it is typed by hand."""

from __future__ import annotations

import json
from importlib import import_module

from common import ROOT

# In this order; benchmarks/pages has the words for each.
FILES = ("core", "distil", "prune", "tune", "runtime", "search")


def main() -> None:
    parts = [HEAD]
    for name in FILES:
        path = ROOT / "benchmarks" / f"{name}.json"
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        sections = import_module(f"pages.{name}").SECTIONS
        parts += [write(found[section]) for section, write in sections.items() if section in found]
    (ROOT / "docs" / "evidence.md").write_text("\n".join(parts), encoding="utf-8")


HEAD = """# Evidence

Written by `python benchmarks/evidence.py` from the result files in `benchmarks/`; `make bench-core`, `bench-distil`, `bench-prune`, `bench-tune`,
`bench-runtime` and `bench-search` make them. SST-2 sentences and MiniLM-6 (6 blocks x 384) from a package unless said; teachers are fine-tuned by the
project. Intervals are 95 %. Times are from text in to label out, interleaved in one run; compare ratios, not milliseconds.
"""


if __name__ == "__main__":
    main()
