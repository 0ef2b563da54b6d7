"""Prefixes and prompts: the formulas, what taps hear, token outputs, graphs, and the positions that a prompt takes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folders import LABELS, data_files, model_folder
from tiny import PAD, VOCAB, batch, tiny
from torch import Tensor

from smidgen.anatomy import anatomy
from smidgen.errors import InputError, ModelError, NoEffect, RecipeError
from smidgen.grafting import settle
from smidgen.grafts import build, stacked
from smidgen.graph import difference, export, single_output
from smidgen.method import Context, find
from smidgen.planner import plan
from smidgen.recipe import Files, Recipe, Stage, Use
from smidgen.surgery import apply
from smidgen.tape import listen

FAMILIES = ["bert", "roberta", "distilbert", "electra", "mpnet", "modernbert"]
FAMILY = pytest.mark.parametrize("family", FAMILIES)
KIND = pytest.mark.parametrize("kind", ["prefix", "prompt"])
LENGTHS = [5, 12, 3]


def grown(model: Any, kind: str, length: int = 3, seed: int = 0) -> Any:
    """A graft whose numbers are large enough to see."""
    torch.manual_seed(seed)
    graft: Any = build(model, kind, {"length": length})
    for parameter in graft.parameters():
        parameter.data.add_(0.5 * torch.randn_like(parameter))
    return graft


@torch.no_grad()
def said(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    out = model.eval()(**inputs)
    return torch.stack((out.start_logits, out.end_logits), -1) if "start_logits" in out else out.logits


# A prefix.


@FAMILY
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_with_a_prefix_by_the_formula(family: str, attention: str) -> None:
    """What the output projection of each block reads, from the block's own scores and values of the tokens."""
    model, inputs = tiny(family, attn_implementation=attention), batch(VOCAB, LENGTHS)
    blocks = anatomy(model).blocks
    graft = grown(model, "prefix")
    graft.attach(model)
    read: dict[int, Tensor] = {}
    for block in blocks:
        block.out.register_forward_pre_hook(lambda module, args, i=block.index: read.__setitem__(i, args[0]))
    taps = [f"block.{i}.{part}" for i in range(len(blocks)) for part in ("query", "value", "scores")]
    with torch.no_grad(), listen(model, taps) as recording:
        heard = recording.read(model(**inputs), inputs["attention_mask"])
    for block in blocks:
        query, value, scores = (heard[f"block.{block.index}.{part}"] for part in ("query", "value", "scores"))
        if family == "modernbert":  # queries are turned by their place's angle, the prefix's keys are not
            query = turned(model, block, query)
        keys, values = (
            table[str(block.index)].unflatten(-1, (-1, block.head_size)).transpose(0, 1)
            for table in (graft.keys, graft.values)
        )
        more = query @ keys.transpose(-1, -2) / math.sqrt(block.head_size)
        probs = torch.cat((scores, more), -1).softmax(-1)
        wanted = probs @ torch.cat((value, values.expand(len(value), -1, -1, -1)), -2)
        real = inputs["attention_mask"].bool()
        wanted = wanted.transpose(1, 2).flatten(2)
        torch.testing.assert_close(read[block.index][real], wanted[real], atol=1e-5, rtol=1e-5)


def turned(model: Any, block: Any, query: Tensor) -> Tensor:
    """Rotary positions by complex numbers: (x_j + i x_{j+D/2}) e^{i place theta_j}."""
    half = block.head_size // 2
    base = model.config.rope_parameters[block.module.attention_type]["rope_theta"]
    theta = base ** -(torch.arange(half) / half)
    angle = torch.arange(query.shape[2])[:, None] * theta
    spun = torch.complex(query[..., :half], query[..., half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat((spun.real, spun.imag), -1)


@FAMILY
def test_every_query_sees_the_prefix(family: str) -> None:
    """In blocks with a window too; values far from all others tell who has seen them."""
    model, inputs = tiny(family), batch(VOCAB, [40])
    graft = grown(model, "prefix")
    graft.attach(model)
    read: list[Tensor] = []
    for block in anatomy(model).blocks:
        graft.values[str(block.index)].data.fill_(1e3)
        block.out.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    said(model, inputs)
    for values in read:
        assert values.shape[1] == 40 and (values[0].mean(-1) > 1).all()


@FAMILY
def test_gradient_and_autocast(family: str) -> None:
    model, inputs = tiny(family).train(), batch(VOCAB, LENGTHS)
    graft = grown(model, "prefix")
    graft.attach(model)
    with torch.autocast("cpu", torch.bfloat16):
        model(**inputs).logits.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in graft.parameters())


def test_other_grafts_and_a_forward_that_fails() -> None:
    """A graft that was put in later hears the tokens alone, and hooks of a broken forward do not pile up."""
    model, inputs = tiny("bert"), batch(VOCAB, LENGTHS)
    prefix, bias = grown(model, "prefix"), build(model, "bias", {})
    for parameter in bias.parameters():
        parameter.data.add_(0.3)
    bias.attach(model)
    prefix.attach(model)
    wanted = said(model, inputs)
    for graft in (bias, prefix):
        graft.detach()
    prefix.attach(model)
    bias.attach(model)
    torch.testing.assert_close(said(model, inputs), wanted)
    key = anatomy(model).blocks[1].key
    broken = key.register_forward_pre_hook(lambda module, args: 1 / 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            said(model, inputs)
    broken.remove()
    torch.testing.assert_close(said(model, inputs), wanted)
    assert not prefix._passing and len(key._forward_hooks) == 1


def test_a_prefix_where_heads_were_cut() -> None:
    from smidgen.edits.keep_heads import KeepHeads

    model, inputs = tiny("mpnet"), batch(VOCAB, LENGTHS)
    apply(model, KeepHeads(0, (1, 3)))
    apply(model, KeepHeads(1, ()))
    before = said(model, inputs)
    graft = grown(model, "prefix")
    assert {name: tuple(v.shape) for name, v in graft.keys.items()} == {"0": (3, 16)}
    graft.attach(model)
    assert (said(model, inputs) - before).abs().max() > 1e-3
    apply(model := tiny("bert", blocks=1), KeepHeads(0, ()))
    with pytest.raises(NoEffect, match=r"prefix: no block has heads left.*Take tune\.adapter"):
        build(model, "prefix", {})


def test_swapped_attention_takes_no_prefix() -> None:
    from smidgen.edits.swap import Swap

    model = apply(tiny("bert"), Swap((1,), "local", (4,)))
    with pytest.raises(ModelError, match=r"prefix: block 1 takes no more keys: its attention was swapped"):
        build(model, "prefix", {})
    model, inputs = apply(tiny("bert"), Swap((0, 1), "multi_query", ())), batch(VOCAB, LENGTHS)
    grown(model, "prefix").attach(model)
    torch.testing.assert_close(said(model, inputs), said(model, batch(VOCAB, LENGTHS, pad_to=20)), atol=1e-5, rtol=0)


def test_edits_that_come_too_late() -> None:
    from smidgen.edits.keep_heads import KeepHeads
    from smidgen.edits.swap import Swap

    for edit, why in (
        (KeepHeads(1, (0, 2)), "heads of block 1 were cut since it was made. Cut first, tune after."),
        (Swap((0,), "local", (4,)), "the attention of block 0 was swapped since. Swap first, tune after."),
    ):
        model = tiny("bert")
        grown(model, "prefix").attach(model)
        apply(model, edit)
        with pytest.raises(ModelError, match=f"prefix: {why}"):
            said(model, batch(VOCAB, LENGTHS))
        model = tiny("bert")
        settle(model, grown(model, "prefix"))
        with pytest.raises(ModelError, match=f"{type(edit).__name__}: a prefix was put beside the"):
            apply(model, edit)


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    from smidgen.data import load_data
    from smidgen.source import load_model, resolve

    files = data_files(tmp_path)
    source = resolve(str(model_folder(tmp_path / "base", labels=LABELS)))
    task = load_data(files["train"], files["dev"]).task
    return Context(source.path, tmp_path / "target", task, (), 0, model=load_model(source, task, 0))


def test_the_tensors_of_an_mlp_are_what_stays(ctx: Context) -> None:
    method: Any = find("tune.prefix")(length=3, hidden=8)
    state = method.begin(ctx)
    inputs, (graft, encoder) = batch(30, [4, 6]), state
    ctx.model(**inputs).logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in encoder.parameters())
    assert not any(p.requires_grad for p in graft.parameters())
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    wanted = said(ctx.model, inputs)
    inner = torch.tanh(encoder.places @ encoder.into.weight.T + encoder.into.bias)
    key = (inner @ encoder.out["1"].weight.T + encoder.out["1"].bias)[:, :32]
    method.end(state, ctx)
    torch.testing.assert_close(said(ctx.model, inputs), wanted, atol=1e-5, rtol=0)
    (part,) = method.adds(state, ctx)
    assert sorted(part.tensors) == ["keys.0", "keys.1", "real", "values.0", "values.1"]
    torch.testing.assert_close(part.tensors["keys.1"], key.detach())


# A prompt.


@FAMILY
def test_a_prompt_is_what_embeddings_with_it_give(family: str) -> None:
    """Against the model itself, asked with vectors in place of ids, one text at a time."""
    model = tiny(family)
    graft = grown(model, "prompt")
    inputs = batch(VOCAB, LENGTHS)
    graft.attach(model)
    with torch.no_grad():
        states = model.base_model(**inputs).last_hidden_state
    graft.detach()
    words = model.get_input_embeddings()
    for row, length in enumerate(LENGTHS):
        own = words(inputs["input_ids"][row, :length])
        whole = torch.cat((own[:1], graft.vectors, own[1:]))[None]
        with torch.no_grad():
            wanted = model.base_model(inputs_embeds=whole, attention_mask=whole.new_ones(1, length + 3).long())
        kept = [0, *range(4, length + 3)]
        torch.testing.assert_close(states[row, :length], wanted.last_hidden_state[0, kept], atol=1e-5, rtol=1e-5)


@FAMILY
@KIND
@pytest.mark.parametrize("head", ["TokenClassification", "QuestionAnswering", "MaskedLM"])
def test_outputs_are_of_the_tokens(family: str, kind: str, head: str) -> None:
    """As many places as tokens, the same however a batch is padded, alone and among other tasks."""
    model, lengths = tiny(family, labels=2, head=head), LENGTHS
    grafts = [grown(model, kind, 3, 1), grown(model, kind, 5, 2)]
    entries = [None, *((graft.settings, graft.state_dict()) for graft in grafts)]
    many = stacked(model, kind, entries)
    many.attach(model)
    many.tasks = torch.tensor([2, 0, 1])
    together = said(model, batch(VOCAB, lengths, pad_to=15))
    many.detach()
    inputs = batch(VOCAB, lengths)
    for row, graft in enumerate((grafts[1], None, grafts[0])):
        if graft is not None:
            graft.attach(model)
        alone = said(model, {k: v[row : row + 1, : lengths[row]] for k, v in inputs.items()})
        if graft is not None:
            graft.detach()
        torch.testing.assert_close(together[row, : lengths[row]], alone[0], atol=1e-5, rtol=1e-5)


def test_token_types_and_all_hidden_states() -> None:
    model, inputs = tiny("bert"), batch(VOCAB, LENGTHS)
    types = torch.zeros_like(inputs["input_ids"])
    types[:, 2:] = 1
    grown(model, "prompt").attach(model)
    with torch.no_grad():
        out = model(**inputs, token_type_ids=types, output_hidden_states=True)
        plain = model(**inputs)
    assert (out.logits - plain.logits).abs().max() > 1e-3
    assert {tuple(values.shape) for values in out.hidden_states} == {(3, 12, 32)}


@FAMILY
def test_a_prompt_takes_positions(family: str, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    from smidgen.tokens import length_limit

    model = tiny(family)
    graft = grown(model, "prompt", 4)
    most = 64 - 4 - (PAD + 1 if family in ("roberta", "mpnet") else 0)
    graft.attach(model)
    said(model, batch(VOCAB, [most]))
    with pytest.raises(InputError, match=rf"got a text of {most + 1} tokens; .*Write max_length: {most}, or a shorter"):
        said(model, batch(VOCAB, [most + 1]))
    graft.detach()
    settle(model, graft)
    model.save_pretrained(tmp_path)
    assert length_limit(tmp_path) == most
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(said(again, batch(VOCAB, [most])), said(model, batch(VOCAB, [most])))


def test_a_plan_leaves_room_for_a_prompt(tmp_path: Path) -> None:
    files = {path.stem: str(path) for path in tmp_path.glob("*.csv")} or data_files(tmp_path)
    model_folder(tmp_path / "base")

    def planned(length: int, max_length: int | None) -> int:
        stage = Stage("t", (Use("tune.full"), Use("tune.prompt", {"length": length})))
        given = Files(files["train"], files["dev"], max_length=max_length)
        return plan(Recipe(str(tmp_path / "base"), given, (stage,))).max_length

    assert planned(20, 44) == 44  # of 64
    with pytest.raises(RecipeError, match=r"max_length: got 45, the model takes 4 to 44 beside the 20 places of a pro"):
        planned(20, 45)
    assert planned(58, None) == 6
    with pytest.raises(RecipeError, match=r"max_length: got None, the model takes 4 to 3 beside the 61 places"):
        planned(61, None)


def test_what_a_prompt_refuses() -> None:
    model = tiny("bert")
    with pytest.raises(InputError, match=r"prompt: got length 64, but the model reads 64 tokens"):
        build(model, "prompt", {"length": 64})
    graft = grown(model, "prompt")
    graft.attach(model)
    with pytest.raises(InputError, match=r"prompt: got embeddings, positions or a mask of pairs, wanted input_ids"):
        model(inputs_embeds=torch.zeros(1, 4, 32))
    graft.detach()
    settle(model, graft)
    with pytest.raises(ModelError, match=r"prompt: this model has one already"):
        build(model, "prompt", {})


# Both.


@KIND
def test_taps_are_of_the_tokens(kind: str) -> None:
    model, inputs = tiny("modernbert"), batch(VOCAB, LENGTHS)
    grown(model, kind).attach(model)
    taps = ["embeddings", "pooled", *(f"block.1.{part}" for part in ("hidden", "first", "query", "key", "value"))]
    with torch.no_grad(), listen(model, taps) as recording:
        heard = recording.read(model(**inputs), inputs["attention_mask"])
        states = model.base_model(**inputs)
    assert {heard[name].shape[-2] for name in taps if name not in ("pooled", "block.1.first")} == {12}
    torch.testing.assert_close(heard["block.1.hidden"], states.last_hidden_state)


def test_no_scores_beside_a_prompt() -> None:
    model, inputs = tiny("bert"), batch(VOCAB, LENGTHS)
    grown(model, "prompt").attach(model)
    with torch.no_grad(), listen(model, ["block.0.scores"]) as recording:
        outputs = model(**inputs)
    with pytest.raises(ModelError, match=r"a model that reads a prompt with each text\. Compare what blocks give"):
        recording.read(outputs, inputs["attention_mask"])


@pytest.mark.parametrize(
    ("family", "head"),
    [("roberta", "TokenClassification"), ("modernbert", "SequenceClassification"), ("mpnet", "QuestionAnswering")],
)
def test_the_graph_is_the_model(family: str, head: str, tmp_path: Path) -> None:
    """Of a model with both in it: for any number of texts, of any length that leaves room for the prompt."""
    own = {"layer_types": ["sliding_attention"]} if family == "modernbert" else {}
    model = tiny(family, 1, labels=2, head=head, attn_implementation="eager", **own)
    for kind in ("prefix", "prompt"):
        settle(model, grown(model, kind, 4))
    model = single_output(model)
    limit = model.config.max_position_embeddings - (0 if family == "modernbert" else PAD + 1)

    def arrays(*lengths: int) -> dict[str, np.ndarray]:
        found = {name: value.numpy() for name, value in batch(VOCAB, lengths).items()}
        return found | {"token_type_ids": np.zeros_like(found["input_ids"])}

    export(model, arrays(9, 20), tmp_path / "model.onnx", limit)
    for lengths in ((2,), (limit,), (17, 3, 40)):
        assert difference(model, tmp_path / "model.onnx", arrays(*lengths)) < 1e-5
