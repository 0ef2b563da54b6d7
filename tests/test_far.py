"""Artefacts and labels at a URL: whole once their last file is there, brought where they are not, made once."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import fsspec
import pytest
import yaml
from commands import command, tree

from smidgen import api
from smidgen.artefact import RECORD, Store, open_artefact
from smidgen.errors import ArtefactError, InputError
from smidgen.far import Far, near
from smidgen.hands import _stage
from smidgen.planner import plan
from smidgen.recipe import load
from smidgen.runner import run
from smidgen.watch import Silent

TRAIN = {"epochs": 1, "learning_rate": 2e-3, "batch_size": 16, "precision": "float32"}
TEACHER = {"name": "teacher", "methods": {"tune.full": {}}, "train": TRAIN}
STUDENT = {
    "name": "student",
    "teacher": "teacher",
    "methods": {"prune.layers": {"keep": 1}, "distil.logits": {}},
    "train": TRAIN,
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def recipe(tiny_bert: Path, tiny_data: dict[str, str], tmp_path: Path) -> Path:
    text = yaml.safe_dump({"model": str(tiny_bert), "data": tiny_data, "stages": [TEACHER, STUDENT]}, sort_keys=False)
    (tmp_path / "recipe.yaml").write_text(text)
    return tmp_path / "recipe.yaml"


def test_a_run_at_a_url_is_used_by_a_machine_that_has_nothing(
    recipe: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"file://{tmp_path}/bucket"
    ran = command(f"run {recipe} --out {url} --json")
    assert ran.code == 0, ran.err
    ids = [told["id"] for told in json.loads(ran.out)]
    there = tmp_path / "bucket" / "stages"
    (labels,) = there.glob("labels-*")
    assert sorted(path.name for path in there.iterdir()) == sorted([*ids, labels.name])
    assert all(open_artefact(there / id, deep=True).id == id for id in ids)
    assert all(path.name.startswith("shard-") for path in labels.iterdir())

    shutil.rmtree(cache)
    more = STUDENT | {"name": "more", "from": "model", "seed": 7}
    stages = [*yaml.safe_load(recipe.read_text())["stages"], more]
    recipe.write_text(yaml.safe_dump(yaml.safe_load(recipe.read_text()) | {"stages": stages}, sort_keys=False))
    monkeypatch.setattr("smidgen.teacher._asker", None)  # its labels are there too
    done = api.run(str(recipe), url)
    assert [one.reused for one in done] == [True, True, False]
    assert tree(done[1].artefact.path) == tree(there / ids[1]) and (there / done[2].artefact.id / RECORD).is_file()


def test_many_hands_need_no_folder_in_common(recipe: Path, tmp_path: Path) -> None:
    """A stage is run where nothing of what it reads is, as on another machine."""
    made = plan(load(recipe.read_text()))
    here, other = (Far("memory://run/stages", tmp_path / name) for name in ("here", "other"))
    run(plan(load(recipe.read_text().replace("student", "pupil"))), here.root, far=here)
    fsspec.filesystem("memory").rm(f"/run/stages/{made.stages[1].id}", recursive=True)
    store = Store(other.root, far=other)
    _stage(made, made.stages[1], store, 60.0, (), Silent(), math.inf)
    assert open_artefact(other.root / made.stages[0].id, deep=True).id == made.stages[0].id
    shutil.rmtree(here.root)
    assert all(done.reused for done in run(made, here.root, far=here))
    fsspec.filesystem("memory").rm("/run", recursive=True)


def test_what_was_not_wholly_sent_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    far = Far(f"file://{tmp_path}/bucket", tmp_path / "root")
    folder = far.root / "1a2b"
    (folder / "onnx").mkdir(parents=True)
    for name in ("a.txt", RECORD, "z.txt", "onnx/model.onnx"):
        (folder / name).write_text(name)
    real, sent = type(fsspec.filesystem("file")).put_file, []

    def put(self: object, source: str, target: str) -> None:
        sent.append(target.rpartition("1a2b/")[2])
        if len(sent) == 4:
            raise OSError("the line is cut")
        real(self, source, target)

    monkeypatch.setattr(type(fsspec.filesystem("file")), "put_file", put)
    with pytest.raises(OSError, match="the line is cut"):
        far.send(folder, RECORD)
    assert sent == ["a.txt", "onnx/model.onnx", "z.txt", RECORD]
    before = tree(folder)
    shutil.rmtree(folder)
    far.bring(folder, RECORD)
    assert not folder.exists()
    shutil.copytree(tmp_path / "bucket" / "1a2b", folder)
    (folder / RECORD).write_text(RECORD)
    far.send(folder, RECORD)
    shutil.rmtree(folder)
    far.bring(folder, RECORD)
    assert tree(folder) == before and len(sent) == 8
    far.send(folder, RECORD)
    assert len(sent) == 8, "what is there is not sent again"


def test_what_arrives_broken_is_an_error(recipe: Path, tmp_path: Path, cache: Path) -> None:
    url = f"file://{tmp_path}/bucket"
    done = api.run(str(recipe), url)
    shutil.rmtree(cache)
    (tmp_path / "bucket" / "stages" / done[0].artefact.id / "model.safetensors").write_bytes(b"half")
    with pytest.raises(ArtefactError, match=r"model\.safetensors is missing or changed"):
        api.run(str(recipe), url)


def test_a_url_that_cannot_be_opened_is_said_in_a_sentence(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--out nowhere://x: Protocol not known: nowhere\. Give a folder, or a URL"):
        api.run(str(recipe), "nowhere://x")
    with pytest.raises(InputError, match=r"only smidgen run keeps what it makes at a URL\. Give a folder\."):
        api.tune("model", "train.csv", out=Path("s3://bucket/x"))
    with pytest.raises(InputError, match="Give it as text"):
        near(str(Path("s3://bucket/x")))
