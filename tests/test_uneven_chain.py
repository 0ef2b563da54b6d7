"""An uneven model goes the whole way: published, trained on, exported, quantised, cut again, distilled from and into."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from folders import LABELS, model_folder
from test_cut import CUT
from test_run import TRAIN, logits_of, planned
from transformers import AutoModelForSequenceClassification

from smidgen.anatomy import anatomy
from smidgen.edits.keep_heads import KeepHeads
from smidgen.edits.keep_width import KeepWidth
from smidgen.method import Context
from smidgen.methods.prune.layers import Layers
from smidgen.runner import run
from smidgen.runtime import load as open_model

EACH = pytest.mark.parametrize("family", CUT)
ONCE = TRAIN | {"epochs": 0.5}
EDITS = (KeepHeads(0, (1, 3)), KeepWidth(0, tuple(range(0, 64, 2))), KeepHeads(1, ()), KeepWidth(1, tuple(range(40))))


@pytest.fixture
def uneven(monkeypatch: pytest.MonkeyPatch) -> None:
    """`prune.layers` cuts inside the blocks instead."""

    def begin(self: Layers, ctx: Context) -> None:
        for edit in EDITS[: 2 if self.rule == "first" else None]:
            ctx.edit(edit)

    monkeypatch.setattr(Layers, "begin", begin)


@EACH
def test_the_whole_way(family: str, uneven: None, tiny_data: dict[str, str], tmp_path: Path) -> None:
    base = model_folder(tmp_path / "base", family, labels=LABELS, blocks=3)
    untouched = {path.name: path.read_bytes() for path in base.iterdir()}
    cut = {"name": "cut", "methods": {"prune.layers": {}}}
    more = {"name": "more", "methods": {"tune.full": {}}, "train": ONCE}
    again = {
        "name": "again",
        "from": "more",
        "teacher": "more",
        "methods": {"prune.layers": {"rule": "first"}, "tune.full": {}, "distil.logits": {}, "distil.hidden": {}},
        "train": ONCE,
    }
    graph = {"name": "graph", "methods": {"export.onnx": {}}}
    small = {"name": "small", "methods": {"quant.dynamic": {}}}
    monkey = pytest.MonkeyPatch()
    made = planned(base, tiny_data, cut, more, graph, small)
    done = run(made, tmp_path / "stages")
    assert {path.name: path.read_bytes() for path in base.iterdir()} == untouched
    folders = [d.artefact.path for d in done]
    shapes = [(2, 32), (0, 40), (4, 64)]
    for folder in folders[:2]:
        assert json.loads((folder / "config.json").read_text())["model_type"] == f"smidgen-{family}"
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        assert [(b.heads, b.width) for b in anatomy(model).blocks] == shapes
    texts = list(made.data.test.texts)
    wanted = logits_of(folders[1], texts)
    assert np.abs(wanted - logits_of(folders[0], texts)).max() > 1e-3
    np.testing.assert_allclose(open_model(folders[2], threads=1).outputs(texts), wanted, atol=1e-4)
    rough = open_model(folders[3], threads=1).outputs(texts)
    assert 0 < np.abs(rough - wanted).max() < 0.2 * np.abs(wanted).max()
    monkey.setattr(Layers, "begin", lambda self, ctx: [ctx.edit(e) for e in (KeepHeads(0, (1,)), KeepWidth(2, (3, 4)))])
    moved = tmp_path / "moved"
    shutil.copytree(folders[1], moved)
    (student,) = run(planned(moved, tiny_data, again | {"from": "model", "teacher": "model"}), tmp_path / "later")
    monkey.undo()
    model = AutoModelForSequenceClassification.from_pretrained(student.artefact.path)
    assert [(b.heads, b.width) for b in anatomy(model).blocks] == [(1, 32), (0, 40), (4, 2)]
