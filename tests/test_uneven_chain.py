"""An uneven model goes the whole way: published, trained, exported, quantised, cut again, a teacher and a student."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from folders import LABELS, model_folder
from test_run import TRAIN, logits_of, planned
from transformers import AutoModelForSequenceClassification

from smidgen.anatomy import anatomy
from smidgen.costs import costs
from smidgen.edits import Edit
from smidgen.edits.keep_heads import KeepHeads
from smidgen.edits.keep_hidden import KeepHidden
from smidgen.edits.keep_width import KeepWidth
from smidgen.errors import InputError
from smidgen.methods.prune.layers import Layers
from smidgen.runner import run
from smidgen.runtime import load as open_model
from smidgen.surgery import apply

ONCE = TRAIN | {"epochs": 0.5}
EDITS = (
    *(KeepHeads(0, (1, 3)), KeepWidth(0, tuple(range(0, 64, 2))), KeepHeads(1, ()), KeepWidth(1, tuple(range(40)))),
    KeepHidden(tuple(range(1, 32))),
)


def cutting(monkeypatch: pytest.MonkeyPatch, *edits: Edit) -> None:
    """`prune.layers` makes these edits instead of its own."""
    monkeypatch.setattr(Layers, "begin", lambda self, ctx: [ctx.edit(edit) for edit in edits] and None)


def shapes(folder: Path) -> list[tuple[int, int]]:
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    return [(block.heads, block.width) for block in anatomy(model).blocks]


@pytest.mark.parametrize("family", ["distilbert", "mpnet", "modernbert"])  # BERT, RoBERTa and ELECTRA are built alike
def test_the_whole_way(family: str, tiny_data: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = model_folder(tmp_path / "base", family, labels=LABELS, blocks=3)
    untouched = {path.name: path.read_bytes() for path in base.iterdir()}
    cut = {"name": "cut", "methods": {"prune.layers": {}}}
    more = {"name": "more", "methods": {"tune.full": {}}, "train": ONCE}
    graph = {"name": "graph", "methods": {"export.onnx": {}}}
    small = {"name": "small", "methods": {"quant.dynamic": {}}}
    cutting(monkeypatch, *EDITS)
    made = planned(base, tiny_data, cut, more, graph, small)
    folders = [done.artefact.path for done in run(made, tmp_path / "stages")]
    assert {path.name: path.read_bytes() for path in base.iterdir()} == untouched
    assert [shapes(folder) for folder in folders[:2]] == [[(2, 32), (0, 40), (4, 64)]] * 2
    texts = list(made.data.test.texts)
    wanted = logits_of(folders[1], texts)
    assert np.abs(wanted - logits_of(folders[0], texts)).max() > 1e-3
    np.testing.assert_allclose(open_model(folders[2], threads=1).outputs(texts), wanted, atol=1e-4)
    rough = open_model(folders[3], threads=1).outputs(texts)
    assert 0 < np.abs(rough - wanted).max() < 0.2 * np.abs(wanted).max()
    assert products(folders[2]) == {"distilbert": 16, "mpnet": 16, "modernbert": 12}[family]

    moved = shutil.copytree(folders[1], tmp_path / "moved")
    cutting(monkeypatch, KeepHeads(0, (1,)), KeepHidden(tuple(range(24))), KeepWidth(2, (3, 4)))
    learn = {"tune.full": {}, "distil.logits": {}, "distil.hidden": {}}
    again = {"name": "again", "teacher": "model", "methods": {"prune.layers": {}} | learn, "train": ONCE}
    later = planned(moved, tiny_data, again)
    assert costs(later, tmp_path)[0]["to_label"] == len(later.data.train)
    (student,) = run(later, tmp_path / "later")
    assert shapes(student.artefact.path) == [(1, 32), (0, 40), (4, 2)]


def products(folder: Path) -> int:
    """Matrix products in a graph, but for those inside of attentions."""
    graph = onnx.load(folder / "onnx" / "model.onnx", load_external_data=False).graph
    return sum(node.op_type in ("MatMul", "Gemm") for node in graph.node)


@pytest.mark.parametrize("method", ["distil.attention", "distil.relations"])
def test_heads_of_an_uneven_teacher_have_no_partners(
    method: str, tiny_data: dict[str, str], tmp_path: Path, tiny_classifier: Path
) -> None:
    teacher = tmp_path / "teacher"
    model = AutoModelForSequenceClassification.from_pretrained(tiny_classifier)
    shutil.copytree(tiny_classifier, teacher)
    apply(model, KeepHeads(1, (0,))).save_pretrained(teacher)
    stage = {"name": "student", "teacher": str(teacher), "methods": {method: {}}, "train": ONCE}
    with pytest.raises(InputError, match=f"{method}: heads have been cut out of the teacher's blocks.*distil.logits"):
        run(planned(tiny_classifier, tiny_data, stage), tmp_path / "stages")
