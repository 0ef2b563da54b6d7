"""A teacher's answers on disk: right, found by example, computed once, and safe against crashes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from children import start
from folders import LABELS, model_folder, sentences
from tiny import tiny

from smidgen import teacher as module
from smidgen.artefact import Store
from smidgen.data import Split
from smidgen.errors import ArtefactError, ModelError, OutOfTime
from smidgen.loop import Rows, train
from smidgen.method import Context, find
from smidgen.recipe import Training
from smidgen.shards import open_shards
from smidgen.source import Source, resolve
from smidgen.tape import listen
from smidgen.tasks.classify import NO_LABEL, Classify
from smidgen.teacher import Mean, fingerprint, label, online, too_big
from smidgen.tokens import encode, pad_id

TASK = Classify(LABELS)
HEADS = tuple(f"block.1.{part}" for part in ("query", "key", "value"))
FLAT = ("logits", "pooled", "block.1.first")
TAPS = (*FLAT, "embeddings", "block.0.hidden", "block.1.hidden", *HEADS)
LENGTH = 24


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A classifier with dropout in its config."""
    return resolve(str(model_folder(tmp_path_factory.mktemp("teacher"), labels=LABELS, seed=3)))


def split_of(texts: Iterable[str]) -> Split:
    return Split("train", tuple(texts), None, None, "here")


TEXTS = tuple(text for text, _ in sentences(50, seed=9))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts the teacher was asked each time."""
    real, counts = module._asker, []

    def counting(*args: Any) -> Any:
        answer = real(*args)

        def ask(encoded: Any, progress: Any) -> dict[str, np.ndarray]:
            counts.append(len(encoded))
            return answer(encoded, progress)

        return ask

    monkeypatch.setattr(module, "_asker", counting)
    return counts


def now_of(source: Source, text: str) -> dict[str, np.ndarray]:
    """What the teacher says about one text, alone, now."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(str(source.path)).eval()
    found = encode(TASK, source.path, [text], None, LENGTH).batch([0], pad_id(source.path))
    inputs = {name: torch.from_numpy(value) for name, value in found.items()}
    with torch.inference_mode(), listen(model, TAPS) as heard:
        return {tap: value[0].numpy() for tap, value in heard.read(model(**inputs), inputs["attention_mask"]).items()}


def test_labels_on_disk_are_those_of_the_teacher(source: Source, tmp_path: Path) -> None:
    labels = label(source, TASK, split_of(TEXTS), TAPS, LENGTH, tmp_path)
    everywhere = encode(TASK, source.path, TEXTS, None, LENGTH).lengths
    rows = np.array([everywhere.argmax(), everywhere.argmin(), 7])
    lengths = everywhere[rows]
    assert len(set(lengths)) == 3, lengths
    found = labels.rows(rows, LENGTH + 5)
    assert {tap: value.dtype for tap, value in found.items()} == dict.fromkeys(sorted(TAPS), np.dtype(np.float32))
    assert found["logits"].shape == (3, 2)
    for b, row in enumerate(rows):
        now = now_of(source, TEXTS[row])
        for tap in FLAT:
            np.testing.assert_allclose(found[tap][b], now[tap], rtol=2e-3, atol=2e-3)
        for tap in TAPS[len(FLAT) :]:  # ragged on disk, padded with zeros here
            said, shape = found[tap][b], (4, lengths[b], 8) if tap in HEADS else (lengths[b], 32)
            assert now[tap].shape == shape
            np.testing.assert_allclose(said[..., : lengths[b], :], now[tap], rtol=2e-3, atol=2e-3)
            assert (said[..., lengths[b] :, :] == 0).all()


def test_arrays_are_ragged_half_precision_and_memory_mapped(source: Source, tmp_path: Path) -> None:
    labels = label(source, TASK, split_of(TEXTS), TAPS, LENGTH, tmp_path)
    (shard,) = labels.shards
    assert all(isinstance(array, np.memmap) for array in shard.values())
    assert all(shard[tap].dtype == np.float16 for tap in TAPS)
    lengths = encode(TASK, source.path, TEXTS, None, LENGTH).lengths
    assert shard["block.1.hidden"].shape == (lengths.sum(), 32)
    assert shard["block.1.query"].shape == (lengths.sum(), 4, 8)
    assert shard["block.1.first"].shape == shard["pooled"].shape == (50, 32)
    assert (np.diff(shard["starts"]) == lengths).all()


def test_found_by_example_in_any_order(source: Source, tmp_path: Path, asked: list[int]) -> None:
    first = label(source, TASK, split_of(TEXTS), TAPS, LENGTH, tmp_path)
    order = np.random.default_rng(0).permutation(len(TEXTS))
    again = label(source, TASK, split_of(TEXTS[i] for i in order), TAPS, LENGTH, tmp_path)
    assert asked == [50]
    everything = np.arange(len(TEXTS))
    one, other = first.rows(order, LENGTH), again.rows(everything, LENGTH)
    assert all((one[tap] == other[tap]).all() for tap in TAPS)


def test_only_new_rows_are_computed(
    source: Source, tmp_path: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    label(source, TASK, split_of(TEXTS[:30]), TAPS, LENGTH, tmp_path)
    told: list[tuple[int, int]] = []
    more = label(
        source, TASK, split_of(TEXTS), TAPS, LENGTH, tmp_path, progress=lambda done, total: told.append((done, total))
    )
    assert asked == [30, 20]
    assert told == [(20, 20)]
    assert len(more.shards) == 2
    np.testing.assert_allclose(
        more.rows(np.array([45]), LENGTH)["logits"][0], now_of(source, TEXTS[45])["logits"], atol=2e-3, rtol=2e-3
    )
    monkeypatch.setattr(module, "_asker", None)  # all is there: the teacher is not even loaded
    label(source, TASK, split_of(TEXTS[10:20]), TAPS, LENGTH, tmp_path)


def test_within_a_shard_it_is_told_what_share_of_the_tokens_is_done(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that labels of a single shard are stopped too where they would end too late."""
    monkeypatch.setattr(module, "TOLD", 64)
    texts = [f"{'film ' * (1 + i % 20)}{i}" for i in range(200)]
    told: list[tuple[int, int]] = []
    label(
        source, TASK, split_of(texts), FLAT, LENGTH, tmp_path, progress=lambda done, total: told.append((done, total))
    )
    lengths = np.sort(encode(TASK, source.path, texts, None, LENGTH).lengths)
    shares = [lengths[:rows].sum() / lengths.sum() for rows in (64, 128, 192, 200)]
    assert told == [(int(200 * share), 200) for share in shares] and told[0][0] < 64, "the short ones come first"

    def late(done: int, total: int) -> None:
        raise OutOfTime("its labelling would end too late")

    with pytest.raises(OutOfTime):
        label(source, TASK, split_of(texts), FLAT, LENGTH, tmp_path / "late", progress=late)
    assert not list((tmp_path / "late").glob("labels-*/shard-*"))


def test_fewer_taps_are_read_from_what_is_there(source: Source, tmp_path: Path, asked: list[int]) -> None:
    """The folder that lacks the fewest rows serves; what it lacks is made with all its taps."""
    whole = label(source, TASK, split_of(TEXTS[:30]), TAPS, LENGTH, tmp_path)
    few = label(source, TASK, split_of(TEXTS[10:40]), FLAT, LENGTH, tmp_path)
    assert asked == [30, 10] and len(list(tmp_path.glob("labels-*"))) == 1
    found = few.rows(np.arange(20), LENGTH)
    assert sorted(found) == sorted(FLAT)
    assert all((found[tap] == whole.rows(np.arange(10, 30), LENGTH)[tap]).all() for tap in FLAT)
    label(source, TASK, split_of(TEXTS), TAPS, LENGTH, tmp_path)
    label(source, TASK, split_of(TEXTS), FLAT, LENGTH, tmp_path)
    assert asked == [30, 10, 10]


def test_more_taps_of_other_lengths_teachers_and_numbers_do_not_serve(
    source: Source, tmp_path: Path, asked: list[int]
) -> None:
    other = resolve(str(model_folder(tmp_path / "other", labels=LABELS, seed=4)))
    root, split = tmp_path / "labels", split_of(TEXTS[:5])
    label(source, TASK, split, TAPS, LENGTH, root)
    label(source, TASK, split, FLAT, LENGTH + 1, root)
    label(other, TASK, split, FLAT, LENGTH, root)
    label(source, TASK, split, FLAT, LENGTH, root, precision=torch.bfloat16)
    assert asked == [5, 5, 5, 5]


def test_a_text_that_comes_twice_is_labelled_once(source: Source, tmp_path: Path, asked: list[int]) -> None:
    labels = label(source, TASK, split_of([*TEXTS[:10], *TEXTS[:10]]), TAPS, LENGTH, tmp_path)
    assert asked == [10]
    found = labels.rows(np.arange(20), LENGTH)
    assert all((found[tap][:10] == found[tap][10:]).all() for tap in TAPS)


def test_a_pair_is_not_its_first_text(source: Source, tmp_path: Path, asked: list[int]) -> None:
    plain = split_of(TEXTS[:5])
    label(source, TASK, plain, ["logits"], LENGTH, tmp_path)
    label(source, TASK, replace(plain, pairs=TEXTS[5:10]), ["logits"], LENGTH, tmp_path)
    assert asked == [5, 5]


def test_a_crash_costs_one_shard_at_most(
    source: Source, tmp_path: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARD", 8)
    real = np.save

    def failing(file: Any, array: np.ndarray) -> None:
        if len(list(tmp_path.glob("labels-*/shard-*"))) == 3:
            file.write(b"half")
            raise OSError("no space left on device")
        real(file, array)

    monkeypatch.setattr(module.np, "save", failing)
    with pytest.raises(OSError, match="no space left"):
        label(source, TASK, split_of(TEXTS), TAPS, LENGTH, tmp_path)
    (folder,) = tmp_path.glob("labels-*")
    assert len(open_shards(folder)) == 3
    assert list(folder.glob(".draft-*"))
    monkeypatch.setattr(module.np, "save", real)
    asked.clear()
    Store(tmp_path).sweep()
    resumed = label(source, TASK, split_of(TEXTS), TAPS, LENGTH, tmp_path)
    assert asked == [8, 8, 8, 2]  # 24 of 50 were safe
    assert not list(folder.glob(".draft-*"))
    whole = label(source, TASK, split_of(TEXTS), TAPS, LENGTH, tmp_path / "other")
    everything = np.arange(len(TEXTS))
    one, other = resumed.rows(everything, LENGTH), whole.rows(everything, LENGTH)
    assert all((one[tap] == other[tap]).all() for tap in TAPS)


def label_until_killed(folder: Path, root: Path) -> None:
    """Label in shards of 8; in the middle of the fourth one the process is killed."""
    real = np.save

    def save(file: Any, array: np.ndarray) -> None:
        if len(list(root.glob("labels-*/shard-*"))) == 3:
            file.write(b"half")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        real(file, array)

    module.SHARD, module.np.save = 8, save  # type: ignore[misc,assignment]
    label(resolve(str(folder)), TASK, split_of(TEXTS), TAPS, LENGTH, root)


def test_a_killed_process_loses_one_shard_at_most(
    source: Source, tmp_path: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start(label_until_killed, source.path, tmp_path)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    monkeypatch.setattr(module, "SHARD", 8)
    resumed = label(source, TASK, split_of(TEXTS), TAPS, LENGTH, tmp_path)
    assert asked == [8, 8, 8, 2], "24 of 50 were safe"
    whole = label(source, TASK, split_of(TEXTS), TAPS, LENGTH, tmp_path / "other")
    one, other = (labels.rows(np.arange(len(TEXTS)), LENGTH) for labels in (resumed, whole))
    assert all((one[tap] == other[tap]).all() for tap in TAPS)


def test_a_wrong_fingerprint_is_an_error(source: Source, tmp_path: Path) -> None:
    label(source, TASK, split_of(TEXTS[:3]), ["logits"], LENGTH, tmp_path)
    (about,) = tmp_path.glob("labels-*/about.json")
    found = json.loads(about.read_text())
    about.write_text(json.dumps(found | {"fingerprint": "0123456789abcdef"}))
    wanted = fingerprint(source, ["logits"], LENGTH)
    with pytest.raises(ArtefactError, match=rf"holds labels for 0123456789abcdef, wanted {wanted}\. Delete it\."):
        label(source, TASK, split_of(TEXTS[:3]), ["logits"], LENGTH, tmp_path)


def test_the_fingerprint_knows_all_that_a_label_depends_on(source: Source, tmp_path: Path) -> None:
    other = resolve(str(model_folder(tmp_path / "other", labels=LABELS, seed=4)))
    prints = [
        fingerprint(source, TAPS, LENGTH),
        fingerprint(source, TAPS[:1], LENGTH),
        fingerprint(source, TAPS, LENGTH + 1),
        fingerprint(source, TAPS, LENGTH, "bfloat16"),
        fingerprint(other, TAPS, LENGTH),
    ]
    assert len(set(prints)) == 5
    assert fingerprint(source, TAPS[::-1], LENGTH) == prints[0]


def test_reduced_precision_is_kept_apart_and_near(source: Source, tmp_path: Path) -> None:
    exact = label(source, TASK, split_of(TEXTS), ["logits"], LENGTH, tmp_path)
    rough = label(source, TASK, split_of(TEXTS), ["logits"], LENGTH, tmp_path, precision=torch.bfloat16)
    rows = np.arange(len(TEXTS))
    one, other = exact.rows(rows, LENGTH)["logits"], rough.rows(rows, LENGTH)["logits"]
    assert 0 < np.abs(one - other).max() < 0.1 * np.abs(one).max()


def test_long_texts_are_cut(source: Source, tmp_path: Path) -> None:
    labels = label(source, TASK, split_of(TEXTS), TAPS, 6, tmp_path)
    assert np.diff(labels.shards[0]["starts"]).max() == 6
    assert labels.rows(np.arange(4), 6)["embeddings"].shape == (4, 6, 32)


def test_a_teacher_for_other_labels_is_refused(source: Source, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has 2 outputs, the data has 3 labels"):
        label(source, Classify(("a", "b", "c")), split_of(TEXTS), ["logits"], LENGTH, tmp_path)
    with pytest.raises(ModelError, match=r"its outputs are bad, good, the data's labels are good, bad"):
        label(source, Classify(LABELS[::-1]), split_of(TEXTS), ["logits"], LENGTH, tmp_path)
    assert not list(tmp_path.glob("labels-*/shard-*"))


def test_a_bare_encoder_has_nothing_to_teach(tiny_bert: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"a bare encoder has no answers to teach\. Train it first .*tune\.full"):
        label(resolve(str(tiny_bert)), TASK, split_of(TEXTS), ["logits"], LENGTH, tmp_path)


# Asked in each step, and several of them.


def inputs_of(source: Source, rows: np.ndarray) -> dict[str, torch.Tensor]:
    found = encode(TASK, source.path, TEXTS, None, LENGTH).batch(rows, pad_id(source.path))
    return {name: torch.from_numpy(value) for name, value in found.items()}


def test_from_disk_and_online_the_answers_are_the_same(source: Source, tmp_path: Path) -> None:
    rows = np.array([11, 3, 40])
    inputs = inputs_of(source, rows)
    stored = label(source, TASK, split_of(TEXTS), TAPS, LENGTH, tmp_path).answers(rows, inputs)
    asked = online(source, TASK, TAPS, torch.device("cpu")).answers(rows, inputs)
    assert sorted(stored) == sorted(asked) == sorted(TAPS)
    real = inputs["attention_mask"].bool()
    assert not real.all()
    for tap in TAPS:
        assert stored[tap].dtype == asked[tap].dtype == torch.float32
        one, other = (side[tap].transpose(1, 2) if tap in HEADS else side[tap] for side in (stored, asked))
        if tap not in FLAT:
            one, other = one[real], other[real]
        torch.testing.assert_close(one, other, rtol=2e-3, atol=2e-3)


def test_from_disk_and_online_the_losses_are_the_same(source: Source, tmp_path: Path) -> None:
    given: dict[str, dict[str, Any]] = {"hidden": {"embeddings": True}, "relations": {}, "patient": {}, "logits": {}}
    terms = []
    for on_disk in (True, False):
        ctx = Context(tmp_path, tmp_path, TASK, (), 0, tiny("bert", labels=2, seed=8), 2, 32, 4)
        running = [(m, m.begin(ctx)) for m in (find(f"distil.{name}")(**settings) for name, settings in given.items())]
        rows = Rows(encode(TASK, source.path, TEXTS, None, LENGTH), np.full(len(TEXTS), NO_LABEL), pad_id(source.path))
        dev = replace(rows, labels=np.arange(len(TEXTS)) % 2)
        said: Any = online(source, TASK, ctx.teacher_taps, torch.device("cpu"))
        if on_disk:
            said = label(source, TASK, split_of(TEXTS), ctx.teacher_taps, LENGTH, tmp_path)
        settings = Training(epochs=1, precision="float32", learning_rate=1e-4, batch_size=8)
        history = train(running, ctx, replace(rows, teacher=said), dev, settings, tmp_path / f"work-{on_disk}")
        terms.append(history.entries[-1]["terms"])
    assert len(terms[0]) == 8
    assert terms[0] == pytest.approx(terms[1], rel=2e-3)
    assert all(value > 1e-3 for value in terms[0].values())


def test_an_online_teacher_is_frozen_and_reads_what_it_is_given(source: Source) -> None:
    teacher = online(source, TASK, ["logits", "block.1.scores", "block.0.probs"], torch.device("cpu"))
    inputs = inputs_of(source, np.arange(4))
    with torch.enable_grad():
        found = teacher.answers(np.arange(4), inputs)
        again = teacher.answers(np.arange(4), inputs)
    assert all(torch.equal(found[tap], again[tap]) for tap in found)  # no dropout
    assert not any(value.requires_grad for value in found.values())
    assert not any(p.requires_grad for p in teacher.model.parameters())
    weight = torch.ones((), requires_grad=True)
    (weight * found["logits"]).sum().backward()  # and a loss may be made of it
    length = inputs["input_ids"].shape[1]
    assert found["block.1.scores"].shape == found["block.0.probs"].shape == (4, 4, length, length)
    masked = inputs | {"input_ids": torch.full_like(inputs["input_ids"], 3)}
    assert not torch.equal(teacher.answers(np.arange(4), masked)["logits"], found["logits"])
    teacher.model.train()
    with pytest.raises(AssertionError):
        teacher.answers(np.arange(4), inputs)


def test_what_grows_with_the_square_of_the_length_stays_off_the_disk(source: Source, tmp_path: Path) -> None:
    assert [too_big([tap]) for tap in ("block.0.scores", "block.1.probs", *TAPS)] == [True, True] + [False] * len(TAPS)
    with pytest.raises(AssertionError, match="ask online"):
        label(source, TASK, split_of(TEXTS), ["block.0.scores"], LENGTH, tmp_path)


def test_several_teachers_are_averaged(source: Source, tmp_path: Path) -> None:
    other = resolve(str(model_folder(tmp_path / "other", labels=LABELS, blocks=3, seed=4)))
    rows = np.array([11, 3, 40])
    each = [label(t, TASK, split_of(TEXTS), ["logits"], LENGTH, tmp_path) for t in (source, other)]
    found = Mean(tuple(each)).answers(rows, inputs_of(source, rows))
    apart = [teacher.rows(rows, LENGTH)["logits"] for teacher in each]
    assert np.abs(apart[0] - apart[1]).max() > 0.1
    np.testing.assert_allclose(found["logits"].numpy(), (apart[0] + apart[1]) / 2, rtol=1e-6)
    assert list(found) == ["logits"]
