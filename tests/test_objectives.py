"""The distillation objectives of the papers against their formulas, written out in loops, and through real forwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import VOCAB, batch, tiny
from torch import Tensor

from smidgen.distances import HIDDEN, row_kl
from smidgen.errors import InputError, NoEffect
from smidgen.method import Context
from smidgen.methods.distil.attention import Attention, score_mse
from smidgen.methods.distil.feature_maps import FeatureMaps
from smidgen.methods.distil.hidden import Hidden
from smidgen.methods.distil.patient import Patient, distance
from smidgen.methods.distil.relations import Related, Relations, relation
from smidgen.tape import Tape, listen
from smidgen.tasks.classify import Classify

TASK = Classify(("a", "b", "c"))
DRAW = np.random.default_rng(0)
LENGTHS = (5, 3)  # real tokens of the two texts, of 5
MASK = np.arange(5) < np.array(LENGTHS)[:, None]
V1, V2 = Relations(("attention", "value")), Relations(heads=8)
METHODS = [
    Patient(),
    Patient("last", normalise=False),
    Attention(),
    Attention("probs"),
    V1,
    V2,
    FeatureMaps(),
    FeatureMaps((0,)),
    Hidden(embeddings=True),
]
EACH = pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{type(m).__name__}-{METHODS.index(m)}")


def softmax(scores: np.ndarray) -> np.ndarray:
    grown = np.exp(scores - scores.max())
    return grown / grown.sum()


def kl(p: np.ndarray, q: np.ndarray) -> float:
    return float(sum(a * np.log(a / b) for a, b in zip(p, q, strict=True)))


def tape(student: dict[str, np.ndarray], teacher: dict[str, np.ndarray]) -> Tape:
    here, there = ({k: torch.from_numpy(v).float() for k, v in side.items()} for side in (student, teacher))
    return Tape(here, there, None, torch.from_numpy(MASK).long(), len(LENGTHS), sum(LENGTHS))


def context(
    blocks: int = 2, teacher_blocks: int = 4, width: int = 32, heads: int = 4, family: str = "bert", **student: Any
) -> Context:
    return Context(Path(), Path(), TASK, (), 0, tiny(family, blocks=blocks, **student), teacher_blocks, width, heads)


# distil.patient


@pytest.mark.parametrize("normalise", [True, False])
def test_patient_is_the_squared_distance_of_first_tokens(normalise: bool) -> None:
    names = [("block.0.first", "block.1.first"), ("block.1.first", "block.3.first")]
    student, teacher = ({pair[k]: DRAW.normal(size=(2, 6)) for pair in names} for k in (0, 1))
    total = 0.0
    for here, there in names:
        for b in range(2):
            h, t = student[here][b], teacher[there][b]
            if normalise:
                h, t = h / np.sqrt(sum(h**2)), t / np.sqrt(sum(t**2))
            total += sum((h[i] - t[i]) ** 2 for i in range(6)) / 2 / len(names)
    terms = Patient(normalise=normalise, weight=7.0).loss(names, tape(student, teacher))
    assert list(terms) == ["block.0.first", "block.1.first"]
    assert sum(terms.values()).item() == pytest.approx(7 * total, rel=1e-5)


def test_patient_compares_directions_if_normalised() -> None:
    student = torch.from_numpy(DRAW.normal(size=(3, 6)))
    np.testing.assert_allclose(distance(student, 5 * student, True).numpy(), 0, atol=1e-12)
    assert distance(student, -student, True).numpy() == pytest.approx(4)
    assert (distance(student, 5 * student, False) > 1).all()


@pytest.mark.parametrize(
    ("blocks", "mapping", "wanted"),  # teacher blocks counted from 1, as in the paper's table of mappings
    [(6, "skip", [2, 4, 6, 8, 10]), (6, "last", [7, 8, 9, 10, 11]), (3, "skip", [4, 8]), (3, "last", [10, 11])],
)
def test_patient_maps_blocks_as_the_paper(blocks: int, mapping: str, wanted: list[int]) -> None:
    state = Patient(mapping).begin(context(blocks, 12))
    assert state == [(f"block.{s}.first", f"block.{t - 1}.first") for s, t in enumerate(wanted)]


def test_patient_refuses_what_it_cannot_do() -> None:
    with pytest.raises(NoEffect, match=r"'skip' leaves the last block to the logits, and this student has no other"):
        Patient().begin(context(1))
    assert Patient(((0, 3),)).begin(context(1)) == [("block.0.first", "block.3.first")]
    for method in (Patient(), FeatureMaps()):
        with pytest.raises(
            InputError, match=r"the student is 32 wide, the teacher 48; wanted equal widths\. Use distil"
        ):
            method.begin(context(width=48))


# distil.attention


def draw_scores(window: int | None = None) -> np.ndarray:
    """(2, 3, 5, 5): padded keys, and keys out of a window, are hidden as the tape hides them."""
    found = DRAW.normal(0, 2, (2, 3, 5, 5)).astype(np.float32)
    found[np.broadcast_to(~MASK[:, None, None, :], found.shape)] = HIDDEN
    if window is not None:
        found[..., np.abs(np.arange(5)[:, None] - np.arange(5)) > window] = HIDDEN
    return found


def expected_attention(kind: str, student: np.ndarray, teacher: np.ndarray, window: int = 9) -> float:
    total = 0.0
    for b, length in enumerate(LENGTHS):
        for head in range(3):
            for q in range(length):
                keys = [k for k in range(length) if abs(q - k) <= window]
                s, t = student[b, head, q, keys].astype(np.float64), teacher[b, head, q, keys].astype(np.float64)
                if kind == "scores":
                    total += sum((x - y) ** 2 for x, y in zip(s, t, strict=True)) / len(keys)
                else:
                    total += kl(softmax(t), softmax(s))
    return total / 3 / sum(LENGTHS)


@pytest.mark.parametrize("kind", ["scores", "probs"])
@pytest.mark.parametrize("window", [None, 1])
def test_attention_is_a_mean_over_heads_keys_and_real_queries(kind: str, window: int | None) -> None:
    student, teacher = draw_scores(), draw_scores(window)
    names = [("block.1.scores", "block.3.scores")]
    terms = Attention(kind, weight=2.0).loss(names, tape({names[0][0]: student}, {names[0][1]: teacher}))
    assert list(terms) == [f"block.1.{kind}"]
    expected = expected_attention(kind, student, teacher, 9 if window is None else window)
    assert terms[f"block.1.{kind}"].item() == pytest.approx(2 * expected, rel=1e-5)


@pytest.mark.parametrize("measure", [score_mse, row_kl])
def test_a_query_that_sees_no_key_is_no_trouble(measure: Any) -> None:
    student = torch.from_numpy(draw_scores()).requires_grad_()
    teacher = torch.full_like(student, HIDDEN)
    value = measure(student, teacher, torch.from_numpy(MASK))
    value.sum().backward()
    assert value.abs().max() < 1e-6
    assert (student.grad == 0).all()


@pytest.mark.parametrize("method", [Attention(), Attention("probs"), V1], ids=["scores", "probs", "v1"])
def test_unequal_heads_are_refused(method: Any) -> None:
    wanted = r"block 1 of the student has 4 heads, the teacher has 12\. Wanted as many\. Use distil\.relations"
    with pytest.raises(InputError, match=wanted if method is V1 else wanted.replace("block 1", "block 0")):
        method.begin(context(heads=12))


# distil.relations


def expected_relation(student: np.ndarray, teacher: np.ndarray, heads: int) -> float:
    """From the formula; queries, keys or values as (B, L, all heads in a row)."""
    total = 0.0
    for b, length in enumerate(LENGTHS):
        for head in range(heads):
            rows = []
            for side in (teacher, student):
                d = side.shape[-1] // heads
                part = side[b, :length, head * d : (head + 1) * d]
                rows.append(
                    [softmax(np.array([part[q] @ part[k] for k in range(length)]) / np.sqrt(d)) for q in range(length)]
                )
            total += sum(kl(p, q) for p, q in zip(*rows, strict=True))
    return total / heads / sum(LENGTHS)


def in_heads(vectors: np.ndarray, heads: int) -> np.ndarray:
    """(B, L, width) as a tap gives it: (B, heads, L, size)."""
    return vectors.reshape(*vectors.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def test_relations_of_another_width_and_number_of_heads() -> None:
    """3 heads of 4 learn from 6 heads of 4, in 4 parts: of 3 numbers here and of 6 there."""
    parts = ("query", "key", "value")
    student, teacher = ({part: DRAW.normal(size=(2, 5, width)) for part in parts} for width in (12, 24))
    here = {f"block.1.{part}": in_heads(student[part], 3) for part in parts}
    there = {f"block.7.{part}": in_heads(teacher[part], 6) for part in parts}
    state = Related(tuple((part, f"block.1.{part}", f"block.7.{part}") for part in parts), 4)
    terms = Relations(heads=4, weight=3.0).loss(state, tape(here, there))
    assert list(terms) == list(parts)
    for part in parts:
        expected = 3 * expected_relation(student[part], teacher[part], 4)
        assert terms[part].item() == pytest.approx(expected, rel=1e-4), part


def test_the_first_minilm_is_attention_and_values_of_the_heads_as_they_are() -> None:
    student, teacher = DRAW.normal(size=(2, 2, 5, 12))
    scores = draw_scores(), draw_scores()
    here = {"block.1.scores": scores[0], "block.1.value": in_heads(student, 3)}
    there = {"block.3.scores": scores[1], "block.3.value": in_heads(teacher, 3)}
    taps = ("attention", "block.1.scores", "block.3.scores"), ("value", "block.1.value", "block.3.value")
    terms = V1.loss(Related(taps, 3), tape(here, there))
    assert terms["attention"].item() == pytest.approx(expected_attention("probs", *scores), rel=1e-5)
    assert terms["value"].item() == pytest.approx(expected_relation(student, teacher, 3), rel=1e-4)


def test_as_many_parts_as_heads_are_the_heads() -> None:
    values = torch.from_numpy(DRAW.normal(size=(2, 3, 5, 4))).float()
    torch.testing.assert_close(relation(values, 3), values @ values.transpose(-1, -2) / 2)
    assert relation(values.bfloat16(), 6).dtype == torch.float32


def test_relations_listen_to_one_block() -> None:
    ctx = context(heads=4)
    assert V1.begin(ctx).heads == 4
    assert ctx.student_taps == {"logits", "block.1.scores", "block.1.value"}
    assert ctx.teacher_taps == {"block.3.scores", "block.3.value"}
    ctx = context(teacher_blocks=24, width=64, heads=16)
    assert Relations(("key",), student_block=0, teacher_block=20).begin(ctx).heads == 16
    assert (ctx.student_taps, ctx.teacher_taps) == ({"logits", "block.0.key"}, {"block.20.key"})


def test_relations_refuse_what_does_not_divide() -> None:
    wanted = (
        r"32 numbers a token \(student\) and 48 \(teacher\) cannot both be cut into 12 parts\. Write heads: a divisor"
    )
    with pytest.raises(InputError, match=wanted):
        Relations().begin(context(width=48, heads=12))
    with pytest.raises(InputError, match=r"does not fit a student of 2 and a teacher of 4 blocks; blocks count from 0"):
        Relations(teacher_block=4).begin(context())
    assert list(Relations(("key", "key")).faults()) == [
        "relations: got ['key', 'key'], wanted one or more of attention, query, key, value, each once."
    ]


# distil.feature_maps


def test_feature_maps_are_a_mean_over_width_tokens_and_blocks() -> None:
    names = [("block.0.hidden", "block.0.hidden"), ("block.1.hidden", "block.1.hidden")]
    student, teacher = ({name: DRAW.normal(size=(2, 5, 6)) for name, _ in names} for _ in range(2))
    total = 0.0
    for name, _ in names:
        for b, length in enumerate(LENGTHS):
            for token in range(length):
                total += sum((student[name][b, token, i] - teacher[name][b, token, i]) ** 2 for i in range(6)) / 6
    terms = FeatureMaps().loss(names, tape(student, teacher))
    assert sum(terms.values()).item() == pytest.approx(total / sum(LENGTHS) / 2, rel=1e-5)


def test_feature_maps_of_some_blocks() -> None:
    assert FeatureMaps((2,)).begin(context(4)) == [("block.2.hidden", "block.2.hidden")]
    assert FeatureMaps((1, 0)).begin(context(2)) == [
        ("block.0.hidden", "block.1.hidden"),
        ("block.1.hidden", "block.3.hidden"),
    ]
    with pytest.raises(NoEffect, match=r"no block 2, the student has 2\. Count from 0 to 1\."):
        FeatureMaps((0, 2)).begin(context(2))


# Through real forwards


def learnt(method: Any, student: Any, teacher: Any, inputs: dict[str, Tensor], heads: int = 4) -> tuple[Any, Tensor]:
    """Terms, and the gradient of their sum."""
    blocks = teacher.config.num_hidden_layers
    ctx = Context(Path(), Path(), TASK, (), 0, student, blocks, 32, heads)
    state, mask = method.begin(ctx), inputs["attention_mask"]
    with torch.no_grad(), listen(teacher, ctx.teacher_taps) as heard:
        said = heard.read(teacher(**inputs), mask)
    with listen(student, ctx.student_taps) as heard:
        own = heard.read(student(**inputs), mask)
    terms = method.loss(state, Tape(own, said, None, mask, len(mask), float(mask.sum())))
    student.zero_grad()
    sum(terms.values()).backward()
    gradient = torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])
    return {name: value.item() for name, value in terms.items()}, gradient


def both(family: str, **config: Any) -> tuple[Any, Any]:
    config = {"max_position_embeddings": 160} | config
    return tiny(family, **config), tiny(family, blocks=4, seed=1, **config)


def same(one: tuple[Any, Tensor], other: tuple[Any, Tensor], rel: float = 2e-5) -> None:
    assert one[0] == pytest.approx(other[0], rel=rel)
    assert one[1].norm() > 1e-4
    assert (one[1] - other[1]).norm() <= 10 * rel * one[1].norm()


@EACH
@pytest.mark.parametrize("family", ["bert", "modernbert", "mpnet"])
def test_padded_to_32_and_to_128_gives_the_same_loss_and_gradient(method: Any, family: str) -> None:
    student, teacher = both(family)
    narrow, wide = (learnt(method, student, teacher, batch(VOCAB, [4, 32, 17], pad_to=width)) for width in (32, 128))
    same(narrow, wide)


@EACH
def test_the_order_of_a_batch_does_not_matter(method: Any) -> None:
    student, teacher = both("bert")
    inputs = batch(VOCAB, [4, 12, 7])
    turned = {name: value[[2, 0, 1]] for name, value in inputs.items()}
    same(learnt(method, student, teacher, inputs), learnt(method, student, teacher, turned))


@EACH
def test_a_student_that_is_the_teacher_has_nothing_to_learn(method: Any) -> None:
    student, teacher = tiny("bert"), tiny("bert")
    terms, gradient = learnt(method, student, teacher, batch(VOCAB, [4, 12, 7]))
    assert terms == pytest.approx(dict.fromkeys(terms, 0), abs=1e-6)
    assert gradient.abs().max() < 1e-5
    others, _ = learnt(method, tiny("bert", seed=5), teacher, batch(VOCAB, [4, 12, 7]))
    assert all(value > 1e-3 for value in others.values())


@EACH
def test_attention_written_out_and_fused_give_the_same(method: Any) -> None:
    inputs = batch(VOCAB, [4, 12, 7])
    fused, plain = (learnt(method, *both("bert", attn_implementation=kind), inputs) for kind in ("sdpa", "eager"))
    same(fused, plain, rel=1e-4)


def test_relations_between_models_of_other_widths_and_heads() -> None:
    student = tiny("bert", hidden_size=24, num_attention_heads=3)
    terms, gradient = learnt(Relations(heads=8), student, tiny("bert", blocks=4, seed=1), batch(VOCAB, [4, 12, 7]))
    assert list(terms) == ["query", "key", "value"]
    assert gradient.norm() > 1e-4
