"""Folders are published whole or not at all, whatever happens on the way."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from children import start

from smidgen.artefact import Store, alone, file_hash, identity, intact, open_artefact, publish, write_atomic
from smidgen.errors import ArtefactError, Busy, ModelError
from smidgen.source import resolve

FILES = {"config.json": 50, "model.safetensors": 20_000, "tokenizer.json": 700, "onnx/model.onnx": 9_000}


def content(name: str, version: int) -> bytes:
    return random.Random(f"{name} {version}").randbytes(FILES[name])


def fill(draft: Path, version: int = 0) -> None:
    for name in FILES:
        (draft / name).parent.mkdir(exist_ok=True)
        with (draft / name).open("wb") as file:
            data = content(name, version)
            for at in range(0, len(data), 4096):
                file.write(data[at : at + 4096])


def make(path: Path, version: int = 0) -> Path:
    with publish(path, {"id": path.name, "form": "float", "version": version}) as draft:
        fill(draft, version)
    return path


def assert_whole(path: Path) -> None:
    """One version of everything, and nothing else."""
    version = open_artefact(path, deep=True).record["version"]
    assert {name: (path / name).read_bytes() for name in FILES} == {name: content(name, version) for name in FILES}
    assert sum(file.is_file() for file in path.rglob("*")) == len(FILES) + 1


def refused(path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"half-written\. The run that made it was stopped; run the same"):
        open_artefact(path)
    with pytest.raises(ModelError, match=r"half-written by a run that was stopped\. Run the same command again"):
        resolve(str(path))


def test_a_published_folder_is_whole_and_says_what_it_is(tmp_path: Path) -> None:
    path = make(tmp_path / "root" / "abc")
    assert_whole(path)
    found = open_artefact(path)
    assert (found.id, found.form, found.path, found.record["schema"]) == ("abc", "float", path, 1)
    assert found.record["files"]["onnx/model.onnx"] == [9_000, file_hash(path / "onnx/model.onnx")]
    assert [p.name for p in path.parent.iterdir()] == ["abc"]


def test_the_record_may_grow_while_the_draft_is_filled(tmp_path: Path) -> None:
    record: dict[str, Any] = {"id": "a", "form": "float"}
    with publish(tmp_path / "a", record) as draft:
        (draft / "x").touch()
        record["found"] = {"largest_difference": 0.5}
    assert open_artefact(tmp_path / "a").record["found"] == {"largest_difference": 0.5}


def test_an_exception_inside_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="stop"), publish(tmp_path / "a", {}) as draft:
        fill(draft)
        raise KeyError("stop")
    assert list(tmp_path.iterdir()) == []


def test_an_exception_inside_keeps_what_was_there(tmp_path: Path) -> None:
    make(tmp_path / "a", 1)
    with pytest.raises(KeyError), publish(tmp_path / "a", {}) as draft:
        fill(draft, 2)
        raise KeyError("stop")
    assert_whole(tmp_path / "a")
    assert open_artefact(tmp_path / "a").record["version"] == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_an_existing_folder_is_replaced(tmp_path: Path) -> None:
    make(tmp_path / "a", 1)
    (tmp_path / "a" / "stray").touch()
    make(tmp_path / "a", 2)
    assert_whole(tmp_path / "a")
    assert open_artefact(tmp_path / "a").record["version"] == 2
    assert len(list(tmp_path.iterdir())) == 1


def test_a_draft_is_loaded_by_nothing(tmp_path: Path) -> None:
    with publish(tmp_path / "a", {"id": "a", "form": "float"}) as draft:
        fill(draft)
        refused(draft)
        shutil.copytree(draft, tmp_path / "copy")
    refused(tmp_path / "copy")  # by its mark, wherever it goes
    shutil.copytree(tmp_path / "a", tmp_path / ".draft-b-1")
    refused(tmp_path / ".draft-b-1")  # by its name, if the mark is gone


def test_a_draft_is_not_served(tmp_path: Path) -> None:
    from smidgen.runtime.folder import deployed_files

    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "onnx/model.onnx", ".incomplete"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    with pytest.raises(ModelError, match="half-written"):
        deployed_files(tmp_path)


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "flipped": flip,
    "cut": lambda file: os.truncate(file, file.stat().st_size - 1),
    "gone": lambda file: file.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_damage_is_found(name: str, damage: str, tmp_path: Path) -> None:
    path = make(tmp_path / "a")
    DAMAGE[damage](path / name)
    wanted = rf"a: {name} is missing or changed\. Delete the folder and run the command again\."
    with pytest.raises(ArtefactError, match=wanted):
        open_artefact(path, deep=True)
    if damage == "flipped":
        open_artefact(path)  # a quick look compares sizes only
    else:
        with pytest.raises(ArtefactError, match=wanted):
            open_artefact(path)


def test_a_sealed_record_is_found_changed(tmp_path: Path) -> None:
    with publish(tmp_path / "a", {"id": "a", "form": "bundle", "said": "x"}, seal=True) as draft:
        (draft / "file").write_text("x")
    record = json.loads((tmp_path / "a/smidgen.json").read_text())
    assert open_artefact(tmp_path / "a", seal=True).record == record and intact(record)
    for other in (record | {"said": "y"}, record | {"more": 1}, {**record, "digest": None}):
        (tmp_path / "a/smidgen.json").write_text(json.dumps(other))
        with pytest.raises(ArtefactError, match=r"a: smidgen\.json is missing or changed"):
            open_artefact(tmp_path / "a")
    with pytest.raises(ArtefactError, match=r"open: smidgen\.json is missing or changed"):
        open_artefact(make(tmp_path / "open"), seal=True)


@pytest.mark.parametrize("text", ["", '{"id": "a"', "[]", '{"id": "a"}', '{"files": []}'])
def test_a_damaged_record_is_found(text: str, tmp_path: Path) -> None:
    path = make(tmp_path / "a")
    (path / "smidgen.json").write_text(text)
    with pytest.raises(ArtefactError, match=r"a: smidgen\.json is missing or changed\. Delete the folder"):
        open_artefact(path)


def test_a_folder_of_someone_else(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"not made by smidgen, there is no smidgen\.json"):
        open_artefact(tmp_path)


def test_store_finds_what_is_whole_and_sweeps_what_is_left(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.find("a") is None
    make(store.path("a"))
    found = store.find("a")
    assert found is not None
    assert found.id == "a"
    for left in (tmp_path / ".draft-b-123", tmp_path / ".draft-old-a-9", store.work("a"), store.work("b")):
        left.mkdir()
        (left / "file").touch()
    store.sweep()
    assert {p.name for p in tmp_path.iterdir()} == {"a", ".work-b"}  # b is still to be finished
    os.truncate(store.path("a") / "config.json", 3)
    with pytest.raises(ArtefactError, match=r"config\.json is missing or changed"):
        store.find("a")


def test_identity_is_of_the_content() -> None:
    expected = hashlib.sha256(b'{"a":"\\u00e9","b":[1,2.5]}').hexdigest()[:16]
    assert identity({"b": [1, 2.5], "a": "é"}) == identity({"a": "é", "b": (1, 2.5)}) == expected
    assert identity([1]) != identity(["1"])


def test_write_atomic_replaces_and_leaves_no_draft(tmp_path: Path) -> None:
    for text in ("one", "two"):
        write_atomic(tmp_path / "new" / "file.json", text)
        assert [(p.name, p.read_text()) for p in (tmp_path / "new").iterdir()] == [("file.json", text)]


# Killed.


def die_at(root: Path, moment: int) -> None:
    """Publish a new folder and replace one, and be gone at the n-th step that touches the disk."""
    count = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == moment:
                os._exit(9)
            return real(*args, **options)

        return step

    for name in ("fsync", "rename", "unlink", "rmdir", "mkdir", "open"):
        setattr(os, name, counted(getattr(os, name)))
    for name in ("rename", "unlink", "write_text", "touch", "mkdir", "open"):
        setattr(Path, name, counted(getattr(Path, name)))
    make(root / "new", 1)
    make(root / "same", 2)
    os._exit(0)


def test_death_at_every_step_of_publishing(tmp_path: Path) -> None:
    make(tmp_path / "template" / "same", 1)
    seen, moment, code = set(), 0, None
    while code != 0:
        moment += 1
        root = tmp_path / str(moment)
        shutil.copytree(tmp_path / "template", root)
        process = start(die_at, root, moment)
        process.join(30)
        code = process.exitcode
        assert code in (0, 9)
        state = look(root)
        seen.add(tuple(sorted(state.items())))
    assert moment > 40
    assert seen == {
        (("same", 1),),
        (("new", 1), ("same", 1)),
        (("new", 1),),  # between the two renames that replace a folder
        (("new", 1), ("same", 2)),
    }


def look(root: Path) -> dict[str, int]:
    """The versions of the published folders; all are whole, and drafts are refused."""
    state = {}
    for path in root.iterdir():
        if path.name.startswith("."):
            refused(path)
        else:
            assert_whole(path)
            state[path.name] = open_artefact(path).record["version"]
    return state


def publish_without_end(root: Path) -> None:
    version = 0
    while True:
        make(root / "same", version)
        make(root / f"new-{version}", version)
        version += 1


def test_killed_at_random_moments(tmp_path: Path) -> None:
    draw, drafts, whole = random.Random(0), 0, 0
    for attempt in range(25):
        root = tmp_path / str(attempt)
        root.mkdir()
        process = start(publish_without_end, root)
        while not list(root.iterdir()):
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.15))
        process.kill()
        process.join(30)
        whole += len(look(root))
        drafts += len(list(root.glob(".draft-*")))
        Store(root).sweep()
        assert not list(root.glob(".*"))
    assert drafts > 3  # most were killed at work
    assert whole > 5


def test_two_runs_cannot_hold_one_folder(tmp_path: Path) -> None:
    root = tmp_path / "stages"
    with alone(root), pytest.raises(Busy, match="another run is working there"), alone(root):
        pass
    with alone(root):
        pass
