"""Attention of other kinds: the formulas, its cost, padding, and models that have it, reloaded and exported."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folders import LABELS, data_files, model_folder
from tiny import VOCAB, batch, tiny
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForSequenceClassification

from smidgen.anatomy import anatomy
from smidgen.attention.local import local
from smidgen.attention.lsh import buckets_of, hashed
from smidgen.edits.keep_heads import KeepHeads
from smidgen.edits.swap import Swap
from smidgen.errors import InputError, ModelError
from smidgen.graph import difference, export
from smidgen.halves import autocast
from smidgen.method import Context
from smidgen.methods.export import onnx
from smidgen.methods.export.onnx import same
from smidgen.planner import plan
from smidgen.recipe import Files, Recipe, Stage, Training, Use
from smidgen.runner import run
from smidgen.surgery import apply, from_data, replay, to_data
from smidgen.tape import listen
from smidgen.tasks import Classify

LENGTH, SIZE = 23, 8
KINDS = [("local", (4,)), ("lsh", (4, 2, 4)), ("multi_query", ())]
FAMILIES = ["bert", "roberta", "electra", "distilbert"]
EACH = pytest.mark.parametrize("family", FAMILIES)
ALL = pytest.mark.parametrize(("kind", "numbers"), KINDS)


def vectors(count: int) -> list[Tensor]:
    """(2, 3, LENGTH, SIZE) each."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 3, LENGTH, SIZE, generator=generator) for _ in range(count)]


REAL = torch.arange(LENGTH) < torch.tensor([[LENGTH], [15]])


def worst(one: Tensor, other: Tensor) -> float:
    """The largest difference at real tokens."""
    return float((one - other).transpose(1, 2)[REAL].abs().max())


# The formulas.


@pytest.mark.parametrize("window", [1, 4, 7, 22, 23, 50])
def test_local_is_full_attention_with_a_band_as_its_mask(window: int) -> None:
    query, key, value = vectors(3)
    i, j = torch.arange(LENGTH)[:, None], torch.arange(LENGTH)
    seen = (((i - j).abs() <= window) | (i == 0) | (j == 0)) & REAL[:, None, None, :]
    wanted = F.scaled_dot_product_attention(query, key, value, seen)
    assert worst(local(query, key, value, REAL, window), wanted) < 1e-5


def shared(query: Tensor, value: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Attention whose keys are the queries at length 1, itself last, and the log of its mass."""
    scores = query @ (query / query.norm(dim=-1, keepdim=True)).transpose(-1, -2)
    scores = scores.masked_fill(torch.eye(LENGTH, dtype=torch.bool), -1e5).masked_fill(~seen, -1e30)
    return scores.softmax(-1) @ value, scores.logsumexp(-1, keepdim=True)


def test_one_bucket_is_full_attention() -> None:
    query, value = vectors(2)
    wanted, _ = shared(query, value, REAL[:, None, None, :])
    assert worst(hashed(query, value, REAL, torch.zeros(1, SIZE, 0), 64), wanted) < 1e-5


@pytest.mark.parametrize("rounds", [1, 3])
def test_tokens_of_one_bucket_attend_to_each_other_and_to_no_other(rounds: int) -> None:
    query, value = vectors(2)
    directions = torch.randn(rounds, SIZE, 3, generator=torch.Generator().manual_seed(2))
    bucket = buckets_of(query, REAL, directions)
    for r in range(rounds):
        turned = query @ directions[r]
        assert torch.equal(bucket[:, :, r][:, 0][REAL], torch.cat((turned, -turned), -1).argmax(-1)[:, 0][REAL])
    assert int(bucket.transpose(1, 3)[~REAL].min()) == 6 and len(bucket[0].unique()) == 6
    same = (bucket[..., :, None] == bucket[..., None, :]) & REAL[:, None, None, None, :]
    found = [shared(query, value, same[:, :, r]) for r in range(rounds)]
    weights = torch.stack([mass for _, mass in found]).softmax(0)
    wanted = (weights * torch.stack([mixed for mixed, _ in found])).sum(0)
    assert worst(hashed(query, value, REAL, directions, 64), wanted) < 1e-5


def test_in_small_chunks_a_token_sees_its_bucket_in_its_chunk_and_the_one_before() -> None:
    query, value = vectors(2)
    directions = torch.randn(1, SIZE, 1, generator=torch.Generator().manual_seed(2))
    bucket = buckets_of(query, REAL, directions)[:, :, 0]
    order = (bucket * LENGTH + torch.arange(LENGTH)).argsort(-1)
    chunk = order.argsort(-1) // 4
    near = (chunk[..., :, None] - chunk[..., None, :] == 0) | (chunk[..., :, None] - chunk[..., None, :] == 1)
    same = (bucket[..., :, None] == bucket[..., None, :]) & near & REAL[:, None, None, :]
    wanted, _ = shared(query, value, same)
    assert worst(hashed(query, value, REAL, directions, 4), wanted) < 1e-5


@pytest.mark.parametrize("family", [*FAMILIES, "mpnet"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_multi_query_is_attention_whose_heads_have_the_mean_key_and_value(family: str, attention: str) -> None:
    model = tiny(family, attn_implementation=attention)
    reference = copy.deepcopy(model)
    for block in anatomy(reference).blocks:
        for linear in (block.key, block.value):
            for values in (linear.weight.data, linear.bias.data):
                heads = values.unflatten(0, (4, -1))
                values.copy_(heads.mean(0, keepdim=True).expand_as(heads).flatten(0, 1))
    apply(model, Swap((0, 1), "multi_query"))
    assert anatomy(model).blocks[0].key.out_features == 8
    inputs = batch(VOCAB, [5, 14])
    torch.testing.assert_close(model(**inputs).logits, reference(**inputs).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_and_its_probabilities_are_wide(dtype: torch.dtype) -> None:
    query, key, value = vectors(3)
    directions = torch.randn(2, SIZE, 2, generator=torch.Generator().manual_seed(2))
    query, key, value, directions = (x.to(dtype).float() for x in (query, key, value, directions))
    for mix in (lambda q, k, v, d: local(q, k, v, REAL, 4), lambda q, k, v, d: hashed(q, v, REAL, d, 4)):
        with autocast(torch.device("cpu"), dtype):
            found = mix(*(x.to(dtype) for x in (query, key, value, directions)))
        assert found.dtype == dtype and worst(found.float(), mix(query, key, value, directions)) < 0.03


# The cost.


class Largest(TorchDispatchMode):
    """The most elements that any tensor has."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for value in found if isinstance(found, tuple | list) else [found]:
            if isinstance(value, Tensor):
                self.most = max(self.most, value.numel())
        return found


@pytest.mark.parametrize("name", ["local", "lsh"])
def test_memory_grows_with_the_length_and_not_its_square(name: str) -> None:
    def most(length: int) -> int:
        query, real = torch.zeros(1, 1, length, 4), torch.ones(1, length, dtype=torch.bool)
        with Largest() as seen:
            if name == "local":
                local(query, query, query, real, 16)
            else:
                hashed(query, query, real, torch.ones(2, 4, 4), 16)
        return seen.most

    assert most(2048) < 2048 * 2048 / 15
    assert most(2048) < 2.1 * most(1024)


# In models.


@EACH
@ALL
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_padding_changes_nothing(family: str, kind: str, numbers: tuple[int, ...], attention: str) -> None:
    model = tiny(family, attn_implementation=attention)
    before = model(**batch(VOCAB, [5, 14, 9])).logits
    apply(model, Swap((0,), kind, numbers))
    found = model(**batch(VOCAB, [5, 14, 9])).logits
    assert not torch.allclose(found, before, atol=1e-3)
    padded, alone = model(**batch(VOCAB, [5, 14, 9], pad_to=33)).logits, model(**batch(VOCAB, [5])).logits
    torch.testing.assert_close(padded, found, rtol=0, atol=2e-6)
    torch.testing.assert_close(alone, found[:1], rtol=0, atol=2e-6)


@EACH
@ALL
def test_replay_and_reload(family: str, kind: str, numbers: tuple[int, ...], tmp_path: Path) -> None:
    model = tiny(family)
    again = tiny(family, seed=5)
    edits = (Swap((0, 1), kind, numbers),)
    replay(model, edits)
    replay(again, from_data(json.loads(json.dumps(to_data(edits))))).load_state_dict(model.state_dict())
    model.save_pretrained(tmp_path)
    reloaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    inputs = batch(VOCAB, [5, 14])
    for other in (again, reloaded):
        torch.testing.assert_close(other(**inputs).logits, model(**inputs).logits, rtol=0, atol=2e-6)
    assert type(reloaded) is type(model)


@ALL
def test_gradient_reaches_every_weight(kind: str, numbers: tuple[int, ...]) -> None:
    model = apply(tiny("bert"), Swap((0, 1), kind, numbers)).train()
    model(**batch(VOCAB, [5, 14])).logits.square().sum().backward()
    block = [(n, p) for n, p in model.bert.encoder.layer.named_parameters() if not n.endswith("key.bias")]
    assert block and all(p.grad is not None and p.grad.abs().max() > 0 for _, p in block)


@pytest.mark.parametrize(
    ("family", "kind", "numbers"),
    [("distilbert", *KINDS[0]), ("distilbert", *KINDS[1]), ("bert", *KINDS[2]), ("electra", *KINDS[2])],
)
def test_the_graph_holds_for_any_length(family: str, kind: str, numbers: tuple[int, ...], tmp_path: Path) -> None:
    model = apply(tiny(family, 1, attn_implementation="eager"), Swap((0,), kind, numbers))

    def arrays(*lengths: int) -> dict[str, np.ndarray]:
        found = {name: value.numpy() for name, value in batch(VOCAB, lengths).items()}
        return found | {"token_type_ids": np.zeros_like(found["input_ids"])}

    export(model, arrays(9, 20), tmp_path / "model.onnx", 64)
    for lengths in ((2,), (5,), (64,), (17, 3, 40)):
        assert difference(model, tmp_path / "model.onnx", arrays(*lengths)) < 1e-5


@pytest.mark.parametrize(
    ("rows", "hashes", "wanted"),
    [
        ([1e-6, 5e-5], False, True),
        ([1e-6, 5e-5, 8e-3], False, False),
        ([8e-3, *[1e-6] * 19, 4e-3], True, True),  # two of 21
        ([8e-3, 4e-3, 2e-3, *[1e-6] * 18], True, False),  # three
        ([8e-3], True, False),
        ([1e-6, math.nan], True, False),
        ([math.inf, *[1e-6] * 19], True, False),
    ],
)
def test_a_token_between_buckets_may_fall_elsewhere_in_a_graph(rows: list[float], hashes: bool, wanted: bool) -> None:
    assert same(np.array(rows), 1e-4, hashes) is wanted


def test_an_export_says_how_many_rows_fell_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model_folder(tmp_path / "m", labels=LABELS)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    apply(model, Swap((0,), "lsh", (4, 2, 4))).save_pretrained(folder)
    real = onnx.differences
    monkeypatch.setattr(onnx, "differences", lambda *args: np.maximum(real(*args), [0.01, *[0] * 9]))
    texts = (("a good film", None),) * 10
    found = onnx.Onnx().run(Context(folder, tmp_path / "out", Classify(LABELS), texts, 0))
    assert found["apart"] == [1, 10] and found["largest_difference"] == 0.01


# What is refused.


@pytest.mark.parametrize(
    ("family", "kind", "numbers", "why"),
    [
        ("mpnet", "local", (4,), "mpnet adds a bias to the scores of all pairs of tokens"),
        ("mpnet", "lsh", (4, 2, 4), "mpnet adds a bias to the scores of all pairs of tokens"),
        ("modernbert", "local", (4,), "modernbert makes its queries, keys and values in a way of its own"),
        ("mobilebert", "multi_query", (), "mobilebert makes its queries, keys and values in a way of its own"),
    ],
)
def test_families_that_other_attention_does_not_suit(
    family: str, kind: str, numbers: tuple[int, ...], why: str
) -> None:
    with pytest.raises(ModelError, match=f"cannot put {kind} attention in block 0: {why}.*Supported are BERT, RoBERTa"):
        apply(tiny(family), Swap((0,), kind, numbers))


def test_swapped_twice_or_cut_after() -> None:
    for kind, numbers in KINDS:
        model = apply(tiny("bert"), Swap((0,), kind, numbers))
        with pytest.raises(ModelError, match="its attention has been swapped already"):
            apply(model, Swap((0,), "local", (4,)))
    with pytest.raises(ModelError, match="block 0 has one key for all heads"):
        apply(model, KeepHeads(0, (1,)))


def test_wrong_fields() -> None:
    with pytest.raises(InputError, match=r"got attention='locale', wanted one of local, lsh, multi_query\. Did you"):
        Swap((0,), "locale")
    with pytest.raises(InputError, match="wanted a tuple of one or more indices"):
        Swap((), "local", (4,))
    with pytest.raises(InputError, match=r"got numbers=\(4,\) for lsh, wanted buckets, rounds, chunk, from 1"):
        apply(tiny("bert"), Swap((0,), "lsh", (4,)))
    with pytest.raises(InputError, match="got block 2, but this model has 2 blocks: use indices from 0 to 1"):
        apply(tiny("bert"), Swap((2,), "local", (4,)))
    with pytest.raises(InputError, match="got buckets 3, wanted 1 or an even number"):
        apply(tiny("bert"), Swap((0,), "lsh", (3, 1, 4)))


def test_scores_of_all_pairs_are_refused() -> None:
    model, inputs = apply(tiny("bert"), Swap((0,), "local", (4,))), batch(VOCAB, [5])
    with listen(model, ["block.0.scores"]) as heard:
        outputs = model(**inputs)
    with pytest.raises(ModelError, match="attention makes only some of them"):
        heard.read(outputs, inputs["attention_mask"])


# Through the chain.


@pytest.mark.parametrize("successor", ["local", "lsh", "multi_query", "narrow"])
def test_theseus_with_successors_of_another_kind(successor: str, tmp_path: Path) -> None:
    files = data_files(tmp_path / "data")
    short = Training(epochs=0.5, learning_rate=1e-3, precision="float32")
    settings = {"groups": 1.0, "successor": successor, "window": 4, "buckets": 4, "chunk": 4}
    stages = (
        Stage("replaced", (Use("replace.theseus", settings), Use("tune.full")), train=short),
        Stage("tuned", (Use("tune.full"),), train=short),
    )
    model = model_folder(tmp_path / "m", labels=LABELS)
    done = run(plan(Recipe(str(model), Files(files["train"], files["dev"]), stages)), tmp_path / "stages")
    kinds = {"narrow": "KeepWidth"}.get(successor, "Swap")
    assert {edit["edit"] for edit in done[0].artefact.record["edits"]} == {kinds}
    assert math.isfinite(done[1].artefact.record["history"]["best"])
