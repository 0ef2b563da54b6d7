"""The losses of the training methods against their formulas, written out again in numpy or taken from torch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import VOCAB, batch, tiny

from smidgen.distances import mse
from smidgen.errors import InputError
from smidgen.mapping import pairs
from smidgen.method import Context
from smidgen.methods.distil.hidden import Hidden, Projections, cosine
from smidgen.methods.distil.logits import Logits, logit_mse, soft_binary, soft_targets
from smidgen.methods.tune.full import Full
from smidgen.tape import Tape, listen
from smidgen.tasks.classify import NO_LABEL, Classify

SINGLE, MULTI = Classify(("a", "b", "c")), Classify(("a", "b", "c"), multi_label=True)
DRAW = np.random.default_rng(0)
STUDENT, TEACHER = DRAW.normal(0, 2, (5, 3)), DRAW.normal(0, 2, (5, 3))


def tensors(*arrays: np.ndarray) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(array) for array in arrays)


def softmax(logits: np.ndarray) -> np.ndarray:
    grown = np.exp(logits)
    return grown / grown.sum(-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def logits_tape(student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, labelled: float = 5) -> Tape:
    mask = torch.ones(len(student), 4)
    return Tape({"logits": student}, {"logits": teacher}, labels, mask, len(student), mask.sum().item(), labelled)


# distil.logits


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 8.0])
def test_soft_targets_are_hintons(temperature: float) -> None:
    p, q = softmax(TEACHER / temperature), softmax(STUDENT / temperature)
    expected = temperature**2 * (p * np.log(p / q)).sum(-1)
    found = soft_targets(*tensors(STUDENT, TEACHER), temperature)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_soft_binary_is_hintons_of_yes_and_no(temperature: float) -> None:
    p, q = sigmoid(TEACHER / temperature), sigmoid(STUDENT / temperature)
    divergence = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    found = soft_binary(*tensors(STUDENT, TEACHER), temperature)
    np.testing.assert_allclose(found.numpy(), temperature**2 * divergence.mean(-1), rtol=1e-9)


def test_logit_mse() -> None:
    found = logit_mse(*tensors(STUDENT, TEACHER))
    np.testing.assert_allclose(found.numpy(), ((STUDENT - TEACHER) ** 2).mean(-1), rtol=1e-12)


@pytest.mark.parametrize("loss", [soft_targets, soft_binary])
def test_a_student_that_is_the_teacher_has_nothing_to_learn(loss: Any) -> None:
    student = torch.from_numpy(TEACHER.copy()).requires_grad_()
    value = loss(student, torch.from_numpy(TEACHER), 2.0)
    np.testing.assert_allclose(value.detach().numpy(), 0, atol=1e-12)
    value.sum().backward()
    np.testing.assert_allclose(student.grad.numpy(), 0, atol=1e-12)
    assert (loss(*tensors(STUDENT, TEACHER), 2.0) > 0).all()


@pytest.mark.parametrize("loss", [soft_targets, soft_binary])
def test_the_gradient_keeps_its_size_when_the_temperature_changes(loss: Any) -> None:
    def gradient(temperature: float) -> torch.Tensor:
        student = torch.from_numpy(0.1 * STUDENT).requires_grad_()
        loss(student, torch.from_numpy(0.1 * TEACHER), temperature).sum().backward()
        return student.grad

    hot = gradient(100.0)
    for temperature in (2.0, 4.0, 20.0):
        assert gradient(temperature).norm() == pytest.approx(hot.norm().item(), rel=0.05)
    if loss is soft_targets:  # Hinton, Vinyals, Dean 2015, equation 4: (z - v) / C for logits of mean 0
        difference = 0.1 * (STUDENT - TEACHER)
        expected = (difference - difference.mean(-1, keepdims=True)) / 3
        np.testing.assert_allclose(hot.numpy(), expected, atol=2e-4)


def test_hard_mixes_in_the_task_over_labelled_rows() -> None:
    labels = torch.tensor([0, 2, NO_LABEL, 1, NO_LABEL])
    student, teacher = (t.float() for t in tensors(STUDENT, TEACHER))
    terms = Logits(temperature=3.0, hard=0.4, weight=5.0).loss(SINGLE, logits_tape(student, teacher, labels, 3))
    soft = soft_targets(student, teacher, 3.0).mean()
    hard = F.cross_entropy(student[[0, 1, 3]], labels[[0, 1, 3]])
    assert terms["soft"].item() == pytest.approx(5 * 0.6 * soft.item(), rel=1e-5)
    assert terms["hard"].item() == pytest.approx(5 * 0.4 * hard.item(), rel=1e-5)
    assert list(Logits().loss(SINGLE, logits_tape(student, teacher, labels, 3))) == ["soft"]


def test_each_kind_and_task_has_its_own_formula() -> None:
    student, teacher = (t.float() for t in tensors(STUDENT, TEACHER))
    tape = logits_tape(student, teacher, torch.zeros(5, 3))
    for method, task, rows in (
        (Logits(temperature=2.0), SINGLE, soft_targets(student, teacher, 2.0)),
        (Logits(temperature=2.0), MULTI, soft_binary(student, teacher, 2.0)),
        (Logits(loss_kind="mse"), SINGLE, logit_mse(student, teacher)),
        (Logits(loss_kind="mse"), MULTI, logit_mse(student, teacher)),
    ):
        assert method.loss(task, tape)["soft"].item() == pytest.approx(rows.mean().item(), rel=1e-6)


def test_half_precision_logits_are_widened_first() -> None:
    student, teacher = (t.bfloat16() for t in tensors(STUDENT, TEACHER))
    terms = Logits().loss(SINGLE, logits_tape(student, teacher, torch.zeros(5).long()))
    assert terms["soft"].dtype == torch.float32
    assert terms["soft"].item() == pytest.approx(soft_targets(student.float(), teacher.float(), 2.0).mean().item())


# tune.full


def test_full_is_cross_entropy_over_labelled_rows() -> None:
    student, labels = torch.from_numpy(STUDENT).float(), torch.tensor([0, NO_LABEL, 1, 1, NO_LABEL])
    term = Full(weight=2.0).loss(SINGLE, logits_tape(student, student, labels, 3))["task"]
    assert term.item() == pytest.approx(2 * F.cross_entropy(student, labels, ignore_index=NO_LABEL).item(), rel=1e-6)


def test_full_is_binary_cross_entropy_over_labelled_rows() -> None:
    student, labels = torch.from_numpy(STUDENT).float(), torch.tensor([[0.0, 1, 1]] * 5)
    labels[3] = torch.nan
    term = Full().loss(MULTI, logits_tape(student, student, labels, 4))["task"]
    known = [0, 1, 2, 4]
    expected = F.binary_cross_entropy_with_logits(student[known], labels[known])
    assert term.item() == pytest.approx(expected.item(), rel=1e-6)


def test_full_is_the_loss_of_transformers() -> None:
    model, inputs, labels = tiny("bert"), batch(VOCAB, [5, 9, 3]), torch.tensor([2, 0, 1])
    with torch.no_grad():
        outputs = model(**inputs, labels=labels)
    tape = Tape({"logits": outputs.logits}, {}, labels, inputs["attention_mask"], 3, 17, 3)
    assert Full().loss(SINGLE, tape)["task"].item() == pytest.approx(outputs.loss.item(), rel=1e-6)


def test_no_labelled_row_gives_no_loss() -> None:
    student = torch.from_numpy(STUDENT).float().requires_grad_()
    for task, labels in ((SINGLE, torch.full((5,), NO_LABEL)), (MULTI, torch.full((5, 3), torch.nan))):
        term = Full().loss(task, logits_tape(student, student, labels, 0))["task"]
        term.backward()
        assert term.item() == 0
        assert (student.grad == 0).all()


# distil.hidden


def hidden_tape(student: np.ndarray, teacher: np.ndarray, mask: np.ndarray, names: list[tuple[str, str]]) -> Tape:
    here = {s: torch.from_numpy(student).float() for s, _ in names}
    there = {t: torch.from_numpy(teacher).float() for _, t in names}
    return Tape(here, there, None, torch.from_numpy(mask), len(mask), float(mask.sum()))


def test_hidden_is_a_mean_over_real_tokens_and_pairs() -> None:
    mask = np.array([[1, 1, 1, 0], [1, 1, 0, 0]])
    student, teacher = DRAW.normal(size=(2, 2, 4, 6))
    student[mask == 0], teacher[mask == 0] = 1e6, np.nan  # padded places may hold anything
    names = [("block.0.hidden", "block.1.hidden"), ("block.1.hidden", "block.3.hidden")]
    one, other = student[mask == 1], teacher[mask == 1]
    cosines = (one * other).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)
    for kind, expected in (("mse", ((one - other) ** 2).mean()), ("cosine", (1 - cosines).mean())):
        state = Projections(names, [torch.nn.Identity()] * 2)
        terms = Hidden(loss_kind=kind, weight=3.0).loss(state, hidden_tape(student, teacher, mask, names))
        assert list(terms) == ["block.0.hidden", "block.1.hidden"]
        assert sum(terms.values()).item() == pytest.approx(3 * expected, rel=1e-5)


def test_hidden_distances_are_one_a_token() -> None:
    student, teacher = tensors(*DRAW.normal(size=(2, 2, 4, 6)))
    assert mse(student, teacher).shape == cosine(student, teacher).shape == (2, 4)
    np.testing.assert_allclose(cosine(student, 3 * student).numpy(), 0, atol=1e-12)
    assert cosine(student, -student).numpy() == pytest.approx(2)


def xtremedistil(h: np.ndarray, z: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> float:
    """KL of one token by the formula: h (H,), z (H',), weight (H', H), bias (H',)."""
    projected = [sum(w * x for w, x in zip(row, h, strict=True)) + b for row, b in zip(weight, bias, strict=True)]
    shaped = [x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in projected]
    there, here = (np.exp(v) / np.exp(v).sum() for v in (np.array(z), np.array(shaped)))
    return float(sum(p * math.log(p / q) for p, q in zip(there, here, strict=True)))


def test_kl_is_between_softmaxes_over_the_width_whatever_the_padding() -> None:
    student, teacher = DRAW.normal(size=(2, 4, 6)), DRAW.normal(0, 2, size=(2, 4, 9))
    method, name, lengths = Hidden(loss_kind="kl", weight=3.0), ("block.0.hidden", "block.1.hidden"), (3, 2)
    torch.manual_seed(0)
    state = Projections([name], [method._projection(6, 9)])
    weight, bias = (p.detach().double().numpy() for p in state.parameters())
    tokens = [(b, i) for b, length in enumerate(lengths) for i in range(length)]
    expected = 3 * sum(xtremedistil(student[b, i], teacher[b, i], weight, bias) for b, i in tokens) / len(tokens)
    for width in (3, 4):
        mask = (np.arange(width) < np.array(lengths)[:, None]).astype(int)
        here, there = student[:, :width].copy(), teacher[:, :width].copy()
        here[mask == 0], there[mask == 0] = 1e3, 0  # what padding holds is of no account
        loss = method.loss(state, hidden_tape(here, there, mask, [name]))["block.0.hidden"]
        assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in state.parameters())


def test_projections_carry_the_student_into_the_teachers_width() -> None:
    hidden = torch.randn(2, 3, 6)
    wide = Hidden()._projection(6, 10)
    assert torch.equal(wide(hidden), hidden @ wide.weight.T)
    assert torch.equal(Hidden(projection="always")._projection(6, 6)(hidden), hidden)  # square: starts as the identity
    assert Hidden()._projection(6, 6)(hidden) is hidden


def context(blocks: int = 2, teacher_blocks: int = 4, teacher_width: int = 32) -> Context:
    model = tiny("bert", blocks=blocks)
    return Context(Path(), Path(), SINGLE, (), 0, model, teacher_blocks, teacher_width)


@pytest.mark.parametrize(
    ("mapping", "teacher_taps"),
    [
        ("uniform", ["block.1.hidden", "block.3.hidden"]),
        ("skip", ["block.1.hidden"]),
        ("middle", ["block.0.hidden", "block.2.hidden"]),
        ("first", ["block.0.hidden", "block.1.hidden"]),
        ("last", ["block.2.hidden", "block.3.hidden"]),
        (((0, 3), (-1, -1)), ["block.3.hidden"]),
    ],
)
def test_hidden_listens_to_the_mapped_blocks(mapping: Any, teacher_taps: list[str]) -> None:
    ctx = context()
    Hidden(mapping=mapping).begin(ctx)
    assert sorted(ctx.teacher_taps) == teacher_taps
    ctx = context()
    state = Hidden(mapping=mapping, embeddings=True).begin(ctx)
    assert {"embeddings", *teacher_taps} == ctx.teacher_taps
    assert {s for s, _ in state.names} | {"logits"} == ctx.student_taps


def test_mappings_of_the_papers() -> None:
    assert [t for _, t in pairs("uniform", 4, 12)] == [2, 5, 8, 11]  # TinyBERT: g(m) = 3m, counted from 1
    assert [t for _, t in pairs("skip", 6, 12)] == [1, 3, 5, 7, 9]  # BERT-PKD: 2, 4, 6, 8, 10, counted from 1
    assert pairs(((0, 11), (-1, -1)), 3, 12) == ((0, 11), (2, 11))
    with pytest.raises(InputError, match=r"student has 6 blocks, the teacher 4. Write the pairs yourself"):
        pairs("uniform", 6, 4)
    with pytest.raises(InputError, match=r"\[\[0, 12\]\] does not fit a student of 3 and a teacher of 12 blocks"):
        pairs(((0, 12),), 3, 12)


def test_a_projection_where_the_widths_differ_or_where_it_is_asked_for() -> None:
    assert list(Hidden().begin(context()).parameters()) == []
    kinds = ((Hidden(), 48, 2), (Hidden(projection="always"), 32, 2), (Hidden(loss_kind="kl"), 32, 4))
    for method, width, weights in kinds:
        one, other = (list(method.begin(context(teacher_width=width)).parameters()) for _ in range(2))
        assert len(one) == weights
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))  # they follow from the seed
    first, second = Hidden().begin(context(teacher_width=48)).parameters()
    assert not torch.equal(first, second)


def test_a_teacher_without_anatomy_is_refused() -> None:
    with pytest.raises(InputError, match=r"the teacher's family has no anatomy here. Use distil.logits alone"):
        Hidden().begin(context(teacher_blocks=0))


# Through a real forward


@pytest.mark.parametrize(
    "method",
    [
        Full(),
        Logits(hard=0.3),
        Logits(loss_kind="mse"),
        Hidden(embeddings=True),
        Hidden(loss_kind="cosine", mapping="last"),
        Hidden(projection="always"),
    ],
    ids=lambda m: f"{type(m).__name__}-{getattr(m, 'loss_kind', '')}",
)
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_padded_to_12_and_to_32_gives_the_same_loss_and_gradient(method: Any, family: str) -> None:
    lengths, labels = [4, 12, 7], torch.tensor([0, 2, 1])
    student, teacher = tiny(family), tiny(family, blocks=4, seed=1)
    ctx = Context(Path(), Path(), SINGLE, (), 0, student, 4, 32)
    state = method.begin(ctx)
    found = []
    for width in (12, 32):
        inputs = batch(VOCAB, lengths, pad_to=width)
        with torch.no_grad(), listen(teacher, ctx.teacher_taps) as heard:
            said = heard.read(teacher(**inputs), inputs["attention_mask"])
        with listen(student, ctx.student_taps) as heard:
            own = heard.read(student(**inputs), inputs["attention_mask"])
        tape = Tape(own, said, labels, inputs["attention_mask"], 3, sum(lengths), 3)
        student.zero_grad()
        terms = method.loss(state, tape)
        sum(terms.values()).backward()
        gradient = torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])
        found.append(({k: v.item() for k, v in terms.items()}, gradient))
    (narrow, one), (wide, other) = found
    assert narrow == pytest.approx(wide, rel=2e-5)
    assert one.norm() > 1e-3
    assert (one - other).norm() <= 1e-4 * one.norm()
