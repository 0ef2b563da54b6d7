"""Bundles: rows of many tasks in one batch answer as each task alone, in torch, in the graph and in the runtime."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import command
from folders import model_folder
from test_grafts import CASES, FAMILY, STACKS, moved
from tiny import batch

from smidgen.anatomy import anatomy
from smidgen.artefact import open_artefact
from smidgen.bundle import OUTPUTS, TOLERANCE, Together, bundle, named
from smidgen.delta import Delta, body_hash, fit, read, write
from smidgen.edits.head import Head
from smidgen.errors import ArtefactError, InputError, ModelError, SmidgenError
from smidgen.grafting import head_names, part, settle
from smidgen.grafts import build, kind
from smidgen.heads import NEVER
from smidgen.merging import merged
from smidgen.runtime import Bundle, deployed_bytes, deployed_files, load
from smidgen.runtime.bundle import Member
from smidgen.source import Source, load_model, resolve
from smidgen.surgery import apply, to_data
from smidgen.tape import logits_of
from smidgen.tasks import Answer, Classify, Several, Tag, Task
from smidgen.tokens import encode
from smidgen.upper import Upper, lowest

Grafts = list[tuple[str, dict[str, Any]]]
COLOURS = Classify(("red", "green", "blue", "grey"))
MOODS = Classify(("bad", "good"))
TAGS = Tag(("O", "B-P", "I-P"))


def tuned(base: Source, task: Task, grafts: Grafts, seed: int) -> tuple[Any, tuple[Any, ...]]:
    """A model with other numbers in its grafts than at the start, and their parts."""
    model, parts = load_model(base, task, seed), []
    for i, (name, settings) in enumerate(grafts):
        graft = moved(build(model, name, settings), seed + i)
        parts.append(part(graft))
        settle(model, graft)
    return model, tuple(parts)


def delta_of(base: Source, task: Task, grafts: Grafts, seed: int) -> Delta:
    """The same as a delta that is nowhere on disk."""
    model, parts = tuned(base, task, grafts, seed)
    names = head_names(model, base.path)
    head = {name: value.detach() for name, value in model.named_parameters() if name in names}
    about = {"hash": body_hash(base), "model": base.reference}
    record = {"base": about, "tokenizer": base.tokenizer_id, "task": task.to_data(), "max_length": 16}
    return Delta(Path(f"{task.name}-{grafts}"), record, parts, head)


def written(root: Path, base: Source, name: str, task: Task, grafts: Grafts, seed: int) -> str:
    model, parts = tuned(base, task, grafts, seed)
    write(root / name, base, model, parts, task, 16, {"methods": {"tune.full": {}}})
    return str(root / name)


@torch.no_grad()
def said(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return logits_of(model(**inputs))


@FAMILY
def test_mixed_rows_answer_as_each_task_alone(family: str, tmp_path: Path) -> None:
    """Every kind that stacks, one beside another, none, and heads of every size and kind."""
    base = resolve(str(model_folder(tmp_path, family)))
    each: list[Grafts] = [[(name, settings)] for name in STACKS for settings in CASES.get(name, [{}])]
    plans = [(MOODS if i % 2 else COLOURS, grafts) for i, grafts in enumerate(each)]
    together: Grafts = [("adapter", {"width": 3}), ("bias", {"add": True})]
    plans += [(MOODS, together), (MOODS, together[::-1]), (COLOURS, []), (TAGS, together), (Answer(), [])]
    deltas = [delta_of(base, task, grafts, seed) for seed, (task, grafts) in enumerate(plans)]
    inputs = batch(100, [5, 9, 3])
    rows, tasks = torch.arange(3).repeat(len(plans)), torch.arange(len(plans)).repeat_interleave(3)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    mixed = {name: value[rows[order]] for name, value in inputs.items()}
    with torch.no_grad():
        found = Together(base, deltas)(**mixed, tasks=tasks[order])
    for number, delta in enumerate(deltas):
        own = order[tasks[order] == number] - 3 * number
        alone = said(fit(delta, base), inputs)[own]
        values = found[OUTPUTS[delta.task.hf_class]][tasks[order] == number]
        real = inputs["attention_mask"][own] > 0 if delta.task.per_token else ...
        count = alone.shape[-1]
        torch.testing.assert_close(values[..., :count][real], alone[real], atol=1e-5, rtol=0, msg=str(delta.path))
        assert (values[..., count:] == NEVER).all()


SHIFTS: Grafts = [("bias", {})]
FACTORS: Grafts = [("lora", {"rank": 2, "sites": ("query", "down"), "factors": True})]


@pytest.mark.parametrize(
    "others",
    [
        [FACTORS],
        [[("scale", {})], [("lora", {})]],
        [[*FACTORS, *SHIFTS], [("bias", {"sites": ("query",)})]],
        [[("scale", {}), *SHIFTS], [("norms", {}), ("adapter", {"kind": "houlsby"})]],
    ],
)
def test_shifts_of_biases_act_first_whatever_is_beside(others: list[Grafts], tmp_path: Path) -> None:
    """So that a sum of bias and shift is the same to the bit; and what reads the bias still finds it."""
    base, inputs = resolve(str(model_folder(tmp_path))), batch(100, [5, 9, 3])
    shifted, *rest = (delta_of(base, MOODS, grafts, seed) for seed, grafts in enumerate([SHIFTS, *others]))

    @torch.no_grad()
    def logits_in(deltas: list[Delta], number: int) -> torch.Tensor:
        found = Together(base, deltas)(**inputs, tasks=torch.full((3,), number))
        return found[OUTPUTS[MOODS.hf_class]]

    alone = logits_in([shifted], 0)
    for deltas in ([shifted, *rest], [*rest, shifted]):
        assert torch.equal(logits_in(deltas, deltas.index(shifted)), alone)
    for number, delta in enumerate(rest):
        whole = said(fit(delta, base), inputs)
        torch.testing.assert_close(logits_in([*rest, shifted], number), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_every_kind_that_stacks_in_one_graph(family: str, tmp_path: Path) -> None:
    """In onnxruntime, mixed: each row as its task alone in torch."""
    home = model_folder(tmp_path / "base", family)
    base = resolve(str(home))
    normed: Grafts = [("adapter", {"kind": "normed", "width": 4})]
    each: list[Grafts] = [[(name, settings)] for name in STACKS for settings in CASES.get(name, [{}])]
    each += [normed, [*normed, ("prefix", {"length": 2})]]
    plans = {f"{i}-{grafts[0][0]}": grafts for i, grafts in enumerate(each)}
    folders = [
        written(tmp_path / "made", base, name, TAGS if i % 4 == 3 else COLOURS, grafts, i)
        for i, (name, grafts) in enumerate(plans.items())
    ]
    made = bundle(str(home), folders, tmp_path / "out")
    assert made.record["largest_difference"] <= 1e-5 == TOLERANCE
    assert not any("graph" in told for told in made.record["tasks"].values()), "all of them stack"
    names = sorted(plans, key=lambda name: name[::-1])  # in another order than the bundle's
    texts = [TEXTS[i % 5] for i in range(len(names))]
    for text, name, answer in zip(texts, names, load(tmp_path / "out").predict(texts, task=names), strict=True):
        close(answer, single(tmp_path / "made", name, text, home))


GIVEN: dict[str, tuple[Task, Grafts]] = {
    "mood": (MOODS, [("adapter", {"width": 4, "kind": "houlsby"}), ("norms", {})]),
    "colour": (COLOURS, [("bias", {"add": True})]),
    "names": (TAGS, [("adapter", {"width": 2})]),
    "two": (Several(("a/x", "a/y", "b/x", "b/y")), []),
}
TEXTS = ["the film was very good", "a dull book", "so rich and fun it was", "the room", "a sad song"] * 2
NAMES = ["mood", "colour", "names", "two", "mood", "names", "names", "colour", "two", "colour"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundle")
    base = resolve(str(model_folder(root / "base", blocks=1)))
    for seed, (name, (task, grafts)) in enumerate(GIVEN.items()):
        written(root, base, name, task, grafts, seed)
    bundle(str(root / "base"), [str(root / name) for name in GIVEN], root / "out")
    return root


@pytest.fixture(scope="module")
def model(root: Path) -> Bundle:
    return load(root / "out")


def single(root: Path, name: str, text: Any, folder: Path | None = None) -> Any:
    """What the runtime should say of one text, from the task alone in torch."""
    base = resolve(str(folder or root / "base"))
    delta = read(root / name)
    encoded = encode(delta.task, base.path, [text], None, 16)
    inputs = {k: torch.from_numpy(v) for k, v in encoded.batch([0], 1).items()}
    logits = said(fit(delta, base), inputs).numpy()
    if isinstance(delta.task, Tag):
        return delta.task.answers(encoded, logits[0], [text])[0]
    return delta.task.answers(logits)[0]  # type: ignore[union-attr]


def close(one: Any, other: Any) -> None:
    """The same but for the last digits of scores."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            close(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            close(a, b)
    else:
        assert one == pytest.approx(other, abs=1e-5)


def test_texts_of_many_tasks(root: Path, model: Bundle) -> None:
    found = model.predict(TEXTS, task=NAMES)
    for text, name, answer in zip(TEXTS, NAMES, found, strict=True):
        close(answer, single(root, name, text))
        close(model.predict(text, task=name), answer)
    close(model.predict(TEXTS, task=NAMES, batch_tokens=1), found)
    assert model.predict([], task="mood") == []
    assert list(model.tasks) == list(GIVEN) and model.tasks["colour"] == COLOURS


def test_longer_texts_are_cut_as_the_task_was_tuned(model: Bundle) -> None:
    long = "the film was so very good and the meal was quite dull and the room was bad"
    short = " ".join(long.split()[:14])
    assert model.predict(long, task="mood") == model.predict(short, task="mood")


def test_pairs_and_labels_by_their_chances(model: Bundle) -> None:
    texts = ["a film", "a room", "a song"]
    first, second, third = model.predict(texts, ["it was good", None, None], ["mood", "colour", "colour"], top_k=2)
    assert [len(one) for one in (first, second, third)] == [2, 2, 2]
    close(first, model.predict([{"text": "a film", "text_pair": "it was good"}], task="mood", top_k=2)[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.predict(["a"]), "task: got none, wanted one name for all texts or a list with one a text. This"),
        (
            lambda m: m.predict("a", task="moods"),
            "task: there is no 'moods'. Did you mean 'mood'? This bundle has mood",
        ),
        (lambda m: m.predict(["a", "b"], task=["mood"]), "task: got 1 names for 2 texts, wanted one for each."),
        (lambda m: m.predict(["a"], task=[["mood"]]), "task: there is no ['mood']."),
        (lambda m: m.predict(["a", "b"], ["c"], "mood"), "pairs: got 1 for 2 texts, wanted one for each, or None"),
        (lambda m: m.predict(["a"], task="names", top_k=2), "top_k: goes with classification, one of the tasks does"),
        (lambda m: m.predict(["a"], ["b"], "names"), "pairs: a tagger reads single texts. Give None as the pair of"),
    ],
)
def test_requests_that_cannot_be_answered(model: Bundle, call: Any, message: str) -> None:
    with pytest.raises(InputError) as raised:
        call(model)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("texts", "pairs", "tasks", "message"),
    [
        (["ok", 5], None, ["mood", "colour"], "text 1: got int, wanted a string or"),
        (["ok", {"txt": "a"}], None, ["mood", "two"], "text 1: got the keys ['txt'], wanted 'text'"),
        (["ok", "a", "b"], ["c", "d", None], ["mood", "colour", "colour"], "pair 2: got NoneType, wanted two strings."),
        (["ok", "so", "a \ud800"], None, ["mood", "names", "colour"], "text 2: holds U+D800, half of a character."),
        (["ok", "a"], [None, "\udfff"], ["mood", "two"], "text 1: holds U+DFFF, half of a character."),
        (["ok", "so", "a \ud800"], None, ["mood", "names", "names"], "text 2: holds U+D800, half of a character."),
        (
            ["ok", ["a"], "b"],
            None,
            ["mood", "names", "names"],
            "text 2: got str, wanted a list of words, as text 1 is.",
        ),
        (["ok", "why", 5], [None, "a", "b"], ["mood", "where", "where"], "entry 2: got int; wanted questions and"),
        (["ok", "why"], [None, "a \ud800"], ["mood", "where"], "text 1: holds U+D800, half of a character."),
    ],
)
def test_errors_name_the_text_by_its_place_among_all(
    texts: list[Any], pairs: list[Any] | None, tasks: list[str], message: str, model: Bundle
) -> None:
    where = Member(Answer(), model.members["mood"].encoder, {})
    asked = copy.copy(model)
    asked.members = {**model.members, "where": where}
    with pytest.raises(InputError) as raised:
        asked.predict(texts, pairs, tasks)
    assert message in str(raised.value)


def test_another_task_leaves_the_others_as_they_are(root: Path) -> None:
    base = resolve(str(root / "base"))
    there = list(named([str(root / name) for name in GIVEN]).values())
    wide = delta_of(base, Classify(tuple("abcdefg")), [("adapter", {"width": 9}), ("bias", {"add": True})], 9)
    inputs = batch(100, [5, 9, 3, 4]) | {"tasks": torch.arange(4)}
    with torch.no_grad():
        before, after = Together(base, there)(**inputs), Together(base, [*there, wide])(**inputs)
    for output, values in before.items():
        torch.testing.assert_close(after[output][..., : values.shape[-1]], values, atol=1e-6, rtol=0)


def logits(folder: Path, names: Iterable[str]) -> list[np.ndarray]:
    """Of every row of these tasks, of one request, in the order of the names."""
    model = load(folder)
    read = [(member := model.members[name], member.read(TEXTS[:4], None, range(4), "unset")[0]) for name in names]
    return [row for rows in model._logits(read, 1024) for row in rows]


def test_a_bundle_made_with_a_task_more_or_less_says_the_same_of_the_others(root: Path) -> None:
    """To the bit. What comes is wider, or has a head of another kind, or takes places of all; then one goes."""
    base, given = resolve(str(root / "base")), [str(root / name) for name in GIVEN]
    wide = written(root / "more", base, "wide", Classify(tuple("abcdefg")), [("adapter", {"width": 9})], 7)
    spans = written(root / "more", base, "spans", Answer(), [("prompt", {"length": 3}), ("lora", {"rank": 2})], 8)
    wanted = logits(root / "out", GIVEN)
    for deltas in ([wide, *given], [*given, spans]):
        bundle(str(root / "base"), deltas, root / "changed")
        assert all(map(np.array_equal, logits(root / "changed", GIVEN), wanted))
    bundle(str(root / "base"), given[1:], root / "changed")
    left = list(GIVEN)[1:]
    assert all(map(np.array_equal, logits(root / "changed", left), logits(root / "out", left)))


def test_the_command(root: Path, model: Bundle) -> None:
    folder = root / "out"
    ran = command(f"predict {folder} --task mood 'a dull book' 'so fun'")
    assert ran.code == 0, ran.err
    answers = model.predict(["a dull book", "so fun"], task="mood")
    lines = [
        f"mood\t{a['label']}\t{a['score']:.4f}\t{t}" for a, t in zip(answers, ["a dull book", "so fun"], strict=True)
    ]
    assert ran.out.splitlines() == lines
    rows: list[dict[str, Any]] = [
        {"task": "names", "tokens": ["a", "film"], "text": None, "text_pair": None},
        {"task": "mood", "tokens": None, "text": "a dull book", "text_pair": None},
        {"task": "colour", "tokens": None, "text": "a film", "text_pair": "a room"},
    ]
    file = root / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    ran = command(f"predict {folder} --file {file} --json")
    texts, pairs = [["a", "film"], "a dull book", "a film"], [None, None, "a room"]
    close(json.loads(ran.out), model.predict(texts, pairs, [row["task"] for row in rows]))
    for words, message in [
        ("a", "--task: got none. This bundle has mood, colour, names, two. Give --task NAME, or --file with"),
        ("a --task moods", "--task: there is no 'moods'. Did you mean 'mood'? This bundle has mood, colour"),
        ("a --task names --pair b", "this model tags single texts"),
    ]:
        ran = command(f"predict {folder} {words}")
        assert ran.code == 2 and message in ran.err
    ran = command(f"bench {folder}")
    assert ran.code == 2 and f"is a bundle of {len(model.tasks)} tasks; bench times folders of one." in ran.err
    file.write_text(json.dumps({"task": "mod", "text": "a"}) + "\n", encoding="utf-8")
    ran = command(f"predict {folder} --file {file}")
    assert ran.code == 2 and "rows.jsonl, row 1" in ran.err and "'mod'" in ran.err
    ran = command(f"bundle {root / 'base'} {root / 'mood'} {root / 'mood'}")
    assert ran.code == 2 and "is called mood too" in ran.err


def test_what_is_deployed_and_what_the_record_says(root: Path, model: Bundle) -> None:
    names = {file.relative_to(root / "out").as_posix() for file in deployed_files(root / "out")}
    assert names == {p.relative_to(root / "out").as_posix() for p in (root / "out").rglob("*") if p.is_file()}
    assert deployed_bytes(root / "out") == sum((root / "out" / name).stat().st_size for name in names)
    record = open_artefact(root / "out").record
    assert record["form"] == "bundle" and record["largest_difference"] <= 1e-5
    told = record["tasks"]["mood"]
    assert told["kinds"] == ["adapter", "norms"] and told["methods"] == {"tune.full": {}} and told["max_length"] == 16


def test_eight_bits_for_the_base_alone(root: Path) -> None:
    """Of another family: the float graph was compared with each task alone before it was quantised."""
    import onnx

    base = resolve(str(model_folder(root / "modern", "modernbert", blocks=1)))
    tasks = {"mood": (MOODS, GIVEN["mood"][1]), "colour": (COLOURS, GIVEN["colour"][1])}
    folders = [written(root / "more", base, n, *plan, seed) for seed, (n, plan) in enumerate(tasks.items())]
    made = bundle(str(root / "modern"), folders, root / "int8", int8=True)
    assert made.record["largest_difference"] <= 1e-5 < made.record["largest_difference_int8"] < 0.2
    nodes = onnx.load(root / "int8" / "onnx" / "model.onnx").graph.node
    assert sum(node.op_type == "MatMulInteger" for node in nodes) == 4
    small = load(root / "int8")
    for name, folder in zip(tasks, folders, strict=True):
        inputs = {"input_ids": torch.tensor([small.members[name].encoder(["a dull book"])[0].ids])}
        whole = said(fit(read(Path(folder)), base), inputs).softmax(-1)[0].sort(descending=True).values
        mine = torch.tensor([each["score"] for each in small.predict("a dull book", task=name, top_k=None)])
        torch.testing.assert_close(mine, whole, atol=0.1, rtol=0)


@FAMILY
def test_the_part_above_a_block_is_the_model(family: str, tmp_path: Path) -> None:
    """From the states that the shared body gives, behind any number of blocks."""
    base = resolve(str(model_folder(tmp_path, family)))
    plain, inputs = load_model(base, MOODS, 0), batch(100, [5, 9, 3])
    shared = Together(base, [delta_of(base, TAGS, [("bias", {"add": True})], 3)], [1, 2])
    with torch.no_grad():
        states = shared(**inputs, tasks=torch.ones(3, dtype=torch.long))
    for cut in (0, 1, 2):
        model, _ = tuned(base, MOODS, [], 0)
        parts = anatomy(model)
        changed = [parts.embeddings, parts.blocks[1].out, parts.head][cut]
        assert isinstance(changed, torch.nn.Module)
        next(changed.parameters()).data.add_(0.5)
        wanted = said(model, inputs)
        assert lowest(model, plain) == cut
        above = {"inputs_embeds": states[f"states_{cut}"]} if cut else {"input_ids": inputs["input_ids"]}
        with torch.no_grad():
            found = Upper(model, cut)(**above, attention_mask=inputs["attention_mask"])["logits"]
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    beside, _ = tuned(base, MOODS, [("adapter", {"first": 1})], 0)
    assert lowest(beside, plain) == 0, "what stands beside the blocks may read any of them"


def test_logits_that_are_no_numbers_are_not_published(tmp_path: Path) -> None:
    """inf less inf is no difference of 0."""
    base = resolve(str(model_folder(tmp_path / "base", blocks=1)))
    model, parts = tuned(base, MOODS, [("bias", {})], 0)
    model.classifier.weight.data.fill_(3e38)
    write(tmp_path / "mood", base, model, parts, MOODS, 16, {})
    with pytest.raises(SmidgenError, match=r"graph and tasks alone differ by nan in a logit"):
        bundle(str(tmp_path / "base"), [str(tmp_path / "mood")], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_large_logits_may_differ_by_a_share_of_them(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = resolve(str(root / "base"))
    model, parts = tuned(base, COLOURS, [("bias", {})], 0)
    model.classifier.weight.data.mul_(1e4)
    write(root / "large", base, model, parts, COLOURS, 16, {})
    made = bundle(str(root / "base"), [str(root / "large")], root / "shares")
    assert made.record["largest_difference"] <= 1e-5
    monkeypatch.setattr("smidgen.bundle.difference", lambda *given: 2e-5)
    with pytest.raises(SmidgenError, match=r"differ by 2e-05 in a logit, or of its row's largest .*; at most 1e-05 is"):
        bundle(str(root / "base"), [str(root / "large")], root / "apart")
    assert not (root / "apart").exists()


def test_kinds_that_do_not_stack_go_their_own_ways(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One from block 1 on, one whole, beside one that shares; a graph each."""
    base = resolve(str(model_folder(root / "two", blocks=2)))
    plans: dict[str, tuple[Task, Grafts]] = {
        "mood": (MOODS, [("bias", {})]),
        "upper": (COLOURS, [("norms", {"first": 1})]),
        "whole": (TAGS, [("adapter", {"width": 2})]),
    }
    folders = [written(root / "ways", base, n, *plan, seed) for seed, (n, plan) in enumerate(plans.items())]
    for name in ("norms", "adapter"):
        monkeypatch.setattr(kind(name), "stacks", False)
    made = bundle(str(root / "two"), folders, root / "own")
    assert made.record["largest_difference"] <= 1e-5
    assert {name: told.get("cut") for name, told in made.record["tasks"].items()} == dict(mood=None, upper=1, whole=0)
    model = load(root / "own")
    names = [*plans, *plans, "upper"]
    texts = TEXTS[: len(names)]
    for text, name, answer in zip(texts, names, model.predict(texts, task=names), strict=True):
        close(answer, single(root / "ways", name, text, root / "two"))
    assert root / "own" / "onnx" / "own-upper.onnx" in deployed_files(root / "own")
    alone = bundle(str(root / "two"), [folders[2]], root / "alone")
    assert alone.record["largest_difference"] <= 1e-5, "of tasks that all need the whole model"
    close(load(root / "alone").predict(TEXTS[0], task="whole"), single(root / "ways", "whole", TEXTS[0], root / "two"))
    folders[0] = written(root / "ways", base, "prompted", MOODS, [("prompt", {"length": 3})], 5)
    mixed = bundle(str(root / "two"), folders, root / "mixed")
    assert mixed.record["largest_difference"] <= 1e-5, "states behind a block are of the text's own tokens"
    told = load(root / "mixed").predict(TEXTS[:3], task=["upper", "prompted", "upper"])
    close(told[0], single(root / "ways", "upper", TEXTS[0], root / "two"))
    close(told[1], single(root / "ways", "prompted", TEXTS[1], root / "two"))


def test_no_torch_is_needed(root: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['transformers'] = None\n"
        "from smidgen.runtime import load\n"
        f"print(load({str(root / 'out')!r}).predict(['a dull book', 'so fun'], task=['mood', 'names'])[0]['label'])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert ran.stdout.strip() in MOODS.labels, ran.stderr


def test_a_changed_bundle_is_refused(root: Path) -> None:
    import shutil

    spoilt = root / "spoilt"
    shutil.copytree(root / "out", spoilt)
    graph = spoilt / "onnx" / "model.onnx"
    whole = bytearray(graph.read_bytes())
    whole[-1] ^= 1
    graph.write_bytes(whole)
    with pytest.raises(ArtefactError, match=r"onnx/model\.onnx is missing or changed"):
        load(spoilt)
    graph.unlink()
    with pytest.raises(ModelError, match=r"this folder has no onnx/model\.onnx"):
        load(spoilt)


def swapped(record: dict[str, Any]) -> None:
    record["tasks"]["mood"]["task"]["labels"].reverse()


@pytest.mark.parametrize(
    "change",
    [
        swapped,
        lambda record: record["tasks"]["mood"].update(number=1),
        lambda record: record["tasks"]["mood"].update(max_length=9),
        lambda record: record.pop("digest"),
        lambda record: (swapped(record), record.pop("digest")),
    ],
)
def test_a_changed_word_of_the_record_is_refused(change: Any, root: Path, tmp_path: Path) -> None:
    """The graph is whole, and the record would have it answer wrongly."""
    import shutil

    spoilt = tmp_path / "spoilt"
    shutil.copytree(root / "out", spoilt)
    record = json.loads((spoilt / "smidgen.json").read_text())
    change(record)
    (spoilt / "smidgen.json").write_text(json.dumps(record))
    with pytest.raises(ArtefactError, match=r"spoilt: smidgen\.json is missing or changed\. Delete the folder"):
        load(spoilt)


def test_what_cannot_be_bundled(root: Path) -> None:
    folder = str(root / "mood")
    with pytest.raises(InputError, match=r"is called mood too\. Type mood-2="):
        named([folder, folder])
    with pytest.raises(InputError, match=r"'a b' cannot name a task, wanted letters, digits"):
        named([f"a b={folder}"])
    with pytest.raises(InputError, match=r"no delta was given"):
        named([])
    other = model_folder(root / "another", seed=5)
    with pytest.raises(ModelError, match=r"made on a base whose weights hash to"):
        bundle(str(other), [folder], root / "never")
    with pytest.raises(InputError, match=r"--out .*base: is there and not a bundle\. Give a name that is free"):
        bundle(str(root / "base"), [folder], root / "base")
    assert not (root / "never").exists() and not list(root.glob(".draft*"))


def test_another_folder_is_not_replaced(root: Path) -> None:
    """Only a bundle gives way to a bundle: not a model, and not what merge made."""
    made = merged(str(root / "base"), root / "mood", root / "merged").path
    before = sorted(path.name for path in made.iterdir())
    for folder in (made, root / "base"):
        with pytest.raises(InputError, match=r"is there and not a bundle\. Give a name that is free\."):
            bundle(str(root / "base"), [str(root / "mood")], folder)
    assert sorted(path.name for path in made.iterdir()) == before


def test_names_and_folders_with_a_sign_between_them(root: Path) -> None:
    import shutil

    shutil.copytree(root / "mood", root / "lr=0.1")
    assert list(named([f"x={root / 'lr=0.1'}"])) == ["x"]
    with pytest.raises(InputError, match=r"'lr=0\.1' cannot name a task"):
        named([str(root / "lr=0.1")])


@pytest.mark.parametrize("pool", ["mix", "last_four"])
def test_a_head_of_its_own_reads_the_states_of_the_shared_body(pool: str, tmp_path: Path) -> None:
    base = resolve(str(model_folder(tmp_path / "base", blocks=4)))
    model = apply(load_model(base, MOODS, 0), Head(pool))
    with torch.no_grad():
        for parameter in (p for n, p in model.named_parameters() if not n.startswith("bert.")):
            parameter.add_(torch.randn_like(parameter))
    write(tmp_path / "head", base, model, (), MOODS, 16, {"methods": {}, "edits": to_data([Head(pool)])})
    shares = written(tmp_path, base, "shares", COLOURS, [("bias", {})], 1)
    made = bundle(str(tmp_path / "base"), [str(tmp_path / "head"), shares], tmp_path / "out")
    assert made.record["largest_difference"] <= 1e-5
    assert made.record["tasks"]["head"]["cut"] == {"mix": 0, "last_four": 1}[pool]
    answers = load(tmp_path / "out").predict(TEXTS[:3], task=["head", "shares", "head"])
    close(answers[0], single(tmp_path, "head", TEXTS[0]))


def test_a_prompt_takes_places_of_the_base(tmp_path: Path) -> None:
    """The tokenizer's limit is all that the table of positions has."""
    home = model_folder(tmp_path / "base", blocks=1)
    file = home / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": 64}))
    base = resolve(str(home))
    folders = [
        written(tmp_path, base, "prompt", MOODS, [("prompt", {"length": 8})], 0),
        written(tmp_path, base, "bias", COLOURS, [("bias", {})], 1),
    ]
    bundle(str(home), folders, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["model_max_length"] == 56
    write(tmp_path / "long", base, *tuned(base, COLOURS, [("bias", {})], 1), COLOURS, 60, {"methods": {}})
    with pytest.raises(InputError, match=r"long: reads texts of 60 tokens; beside the 8 vectors of prompt"):
        bundle(str(home), [folders[0], str(tmp_path / "long")], tmp_path / "other")
