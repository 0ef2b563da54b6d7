"""Taps agree with what Hugging Face itself reports; Tape.mean does not care how a step is cut."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import FAMILIES, VOCAB, batch, tiny
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModel, AutoModelForQuestionAnswering, GPT2Config, GPT2ForSequenceClassification

from smidgen.anatomy import anatomy
from smidgen.errors import InputError, ModelError, SmidgenError
from smidgen.tape import NOWHERE, PARTS, Tape, hide, listen, parse

torch.set_num_threads(1)
EACH = pytest.mark.parametrize("family", FAMILIES)
EVERY = ["embeddings", "pooled", "logits", *(f"block.{i}.{part}" for i in range(3) for part in PARTS)]


def heard(model: nn.Module, inputs: dict[str, Tensor], *taps: str) -> dict[str, Tensor]:
    with listen(model, taps) as recording:
        outputs = model(**inputs)
    return recording.read(outputs, inputs.get("attention_mask"))


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def real(tensor: Tensor, mask: Tensor) -> Tensor:
    """Values at real tokens, keys cut to the longest row: (B, L, H), or (B, heads, L, D or L keys), or pooled."""
    length = mask.shape[1]
    if tensor.ndim == 2:
        return tensor
    tensor = tensor.transpose(1, 2) if tensor.ndim == 4 else tensor
    assert tensor.shape[1] == length
    return tensor[mask.bool()]


@EACH
def test_probs_and_hidden_are_those_of_eager(family: str) -> None:
    inputs = batch(VOCAB, [5, 16, 11], pad_to=20)
    eager = tiny(family, blocks=3, attn_implementation="eager")
    with torch.no_grad():
        taps = heard(tiny(family, blocks=3), inputs, *EVERY)
        wanted = eager(**inputs, output_attentions=True, output_hidden_states=True)
    mask = inputs["attention_mask"]
    assert list(taps) == EVERY
    torch.testing.assert_close(taps["logits"], wanted.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(taps["embeddings"], wanted.hidden_states[0], rtol=1e-5, atol=1e-5)
    for i in range(3):
        probs, hidden = taps[f"block.{i}.probs"], taps[f"block.{i}.hidden"]
        torch.testing.assert_close(real(probs, mask), real(wanted.attentions[i], mask), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(real(hidden, mask), real(wanted.hidden_states[i + 1], mask), rtol=1e-4, atol=1e-4)
        assert taps[f"block.{i}.scores"].dtype == probs.dtype == torch.float32


@EACH
def test_shapes(family: str) -> None:
    taps = heard(tiny(family, blocks=3), batch(VOCAB, [5, 16, 11], pad_to=20), *EVERY)
    for name, tensor in taps.items():
        match name.rpartition(".")[2]:
            case "query" | "key" | "value":
                assert tensor.shape == (3, 4, 20, 8), name
            case "scores" | "probs":
                assert tensor.shape == (3, 4, 20, 20), name
            case "embeddings" | "hidden":
                assert tensor.shape == (3, 20, 32), name
    assert taps["pooled"].shape == (3, 32) and taps["logits"].shape == (3, 3)


@EACH
def test_value_is_what_attention_mixes(family: str) -> None:
    """probs times value, through the output projection, is what the attention gives."""
    model, inputs = tiny(family), batch(VOCAB, [7, 12])
    block = anatomy(model).blocks[1]
    seen: dict[str, Tensor] = {}
    block.out.register_forward_hook(lambda module, args, output: seen.update(mixed=args[0]))
    taps = heard(model, inputs, "block.1.probs", "block.1.value")
    mixed = (taps["block.1.probs"] @ taps["block.1.value"]).transpose(1, 2).flatten(2)
    mask = inputs["attention_mask"].bool()
    torch.testing.assert_close(mixed[mask], seen["mixed"].view_as(mixed)[mask], rtol=1e-4, atol=1e-5)


@EACH
def test_pooled_is_what_the_head_reads(family: str) -> None:
    model = tiny(family)
    taps = heard(model, batch(VOCAB, [7, 12]), "pooled", "logits")
    torch.testing.assert_close(anatomy(model).head(taps["pooled"]), taps["logits"])


@EACH
def test_padding_changes_nothing(family: str) -> None:
    model, lengths = tiny(family, blocks=3), [5, 12, 9]
    short, long = (batch(VOCAB, lengths, pad_to=width) for width in (12, 32))
    with torch.no_grad():
        few, many = (heard(model, inputs, *EVERY) for inputs in (short, long))
    for name in EVERY:
        a, b = real(few[name], short["attention_mask"]), real(many[name], long["attention_mask"])
        if name.endswith(("scores", "probs")):
            assert (b[..., 12:] == (0 if name.endswith("probs") else torch.finfo(torch.float32).min)).all()
            b = b[..., :12]
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, msg=name)


@EACH
def test_no_mask_is_a_mask_of_ones(family: str) -> None:
    model, inputs = tiny(family), batch(VOCAB, [9, 9])
    masked, bare = heard(model, inputs, *EVERY[:9]), heard(model, {"input_ids": inputs["input_ids"]}, *EVERY[:9])
    for name, tensor in masked.items():
        torch.testing.assert_close(tensor, bare[name], rtol=1e-5, atol=1e-5)


@EACH
def test_negative_blocks_keep_their_asked_names(family: str) -> None:
    model, inputs = tiny(family, blocks=3), batch(VOCAB, [9, 4])
    taps = heard(model, inputs, "block.-1.hidden", "block.2.hidden", "block.-3.key", "block.0.key")
    assert list(taps) == ["block.-1.hidden", "block.2.hidden", "block.-3.key", "block.0.key"]
    assert torch.equal(taps["block.-1.hidden"], taps["block.2.hidden"])
    assert torch.equal(taps["block.-3.key"], taps["block.0.key"])


@EACH
def test_gradient_reaches_query_and_key(family: str) -> None:
    model = tiny(family).train()
    taps = heard(model, batch(VOCAB, [9, 4]), "block.1.probs", "block.0.value", "embeddings", "pooled")
    sum(tensor.square().sum() for tensor in taps.values()).backward()
    block = anatomy(model).blocks[1]
    for weight in (block.query.weight, block.key.weight, anatomy(model).blocks[0].value.weight):
        assert weight.grad is not None and weight.grad.isfinite().all() and weight.grad.abs().sum() > 0


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable:FutureWarning")
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "mpnet"])  # Hugging Face's MPNet has none
def test_gradient_checkpointing_gives_the_same_gradient(family: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = tiny(family, attn_implementation="eager", **_no_dropout(family)).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        taps = heard(model, batch(VOCAB, [9, 4]), "block.1.scores", "block.1.probs")
        taps["block.1.probs"].square().sum().backward()
        gradients.append(anatomy(model).blocks[0].up.weight.grad)
    torch.testing.assert_close(*gradients)


def _no_dropout(family: str) -> dict[str, float]:
    if family == "modernbert":
        return {}
    names = ("dropout", "attention_dropout") if family == "distilbert" else ("hidden_dropout_prob",)
    names += () if family == "distilbert" else ("attention_probs_dropout_prob",)
    return dict.fromkeys(names, 0.0)


@EACH
def test_bf16_autocast_leaves_float32_scores(family: str) -> None:
    model, inputs = tiny(family), batch(VOCAB, [9, 4])
    with torch.no_grad():
        wanted = heard(model, inputs, "block.0.scores", "block.1.probs")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            taps = heard(model, inputs, "block.0.scores", "block.1.probs", "block.0.query")
    assert taps["block.0.query"].dtype == torch.bfloat16
    assert taps["block.0.scores"].dtype == taps["block.1.probs"].dtype == torch.float32
    torch.testing.assert_close(taps["block.1.probs"].sum(-1), torch.ones(2, 4, 9), rtol=0, atol=1e-6)
    mask = inputs["attention_mask"]
    torch.testing.assert_close(real(taps["block.1.probs"], mask), real(wanted["block.1.probs"], mask), rtol=0, atol=0.2)


def test_wrapped_in_ddp(tmp_path: Path) -> None:
    model, inputs = tiny("bert"), batch(VOCAB, [9, 4])
    wanted = heard(model, inputs, *EVERY[:9])
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/ddp", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(model, find_unused_parameters=True)
        with listen(wrapped.module, EVERY[:9]) as recording:
            outputs = wrapped(**inputs)
        taps = recording.read(outputs, inputs["attention_mask"])
    finally:
        torch.distributed.destroy_process_group()
    for name, tensor in wanted.items():
        torch.testing.assert_close(taps[name], tensor)


@EACH
def test_hooks_are_removed(family: str) -> None:
    model, inputs = tiny(family, blocks=3), batch(VOCAB, [3])
    with listen(model, EVERY):
        assert hooks(model) > 0
    assert hooks(model) == 0
    with pytest.raises(KeyError), listen(model, EVERY) as recording:
        model(**inputs)
        raise KeyError
    assert hooks(model) == 0
    with pytest.raises(InputError), listen(model, ["embeddings", "block.3.key"]):
        pass
    assert hooks(model) == 0
    assert recording.read(model(**inputs), inputs["attention_mask"])["block.2.probs"].shape == (1, 4, 3, 3)


def test_spans_and_bare_bodies() -> None:
    config, inputs = tiny("bert").config, batch(VOCAB, [9, 4])
    config.num_labels = 2
    spans = AutoModelForQuestionAnswering.from_config(config).eval()
    taps = heard(spans, inputs, "logits", "block.-1.hidden")
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(spans.qa_outputs(taps["block.-1.hidden"])[real], taps["logits"][real])
    assert (taps["logits"][~real] == NOWHERE).all() and not real.all()
    body = AutoModel.from_config(config).eval()
    taps = heard(body, inputs, "pooled", "block.-1.hidden")
    torch.testing.assert_close(body.pooler(taps["block.-1.hidden"]), taps["pooled"])
    with pytest.raises(ModelError, match=r"returned .* without logits: give a model with a task head"):
        heard(body, inputs, "logits")
    with pytest.raises(ModelError, match=r"tap is 'pooled', but this bert model makes no pooled .*'block.-1.hidden'"):
        heard(spans, inputs, "pooled")


def test_logits_need_no_known_family() -> None:
    model = GPT2ForSequenceClassification(
        GPT2Config(vocab_size=VOCAB, n_positions=16, n_embd=8, n_layer=1, n_head=1, pad_token_id=1)
    ).eval()
    assert heard(model, batch(VOCAB, [3, 5]), "logits")["logits"].shape == (2, 2)
    with pytest.raises(ModelError, match="model_type is 'gpt2'"), listen(model, ["embeddings"]):
        pass


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "block.1.hiden",
            r"tap is 'block.1.hiden'. Did you mean 'block.1.hidden'\? Known: embeddings, pooled, logits, ",
        ),
        ("embedings", "Did you mean 'embeddings'"),
        (
            "block.x.key",
            "block.<i>.hidden|first|query|key|value|scores|probs, where i counts from 0 and -1 is",
        ),
        ("block.2.key", "asks for block 2, but this model has 2 blocks: use 0 to 1, or -2 to -1 from the end"),
        ("block.-3.key", "asks for block -3, but this model has 2 blocks"),
    ],
)
def test_wrong_names(name: str, says: str) -> None:
    with pytest.raises(InputError, match=says), listen(tiny("bert"), [name]):
        pass


def test_nothing_heard() -> None:
    with listen(tiny("bert"), ["embeddings"]) as recording:
        pass
    with pytest.raises(SmidgenError, match="nothing was heard: run model"):
        recording.read(None)


def test_parse() -> None:
    assert parse("logits").block is None
    assert (parse("block.-12.value").block, parse("block.-12.value").part) == (-12, "value")


def test_hide() -> None:
    scores = torch.zeros(1, 1, 5, 5)
    probs = hide(scores, torch.tensor([[1, 1, 0, 0, 0]]), window=1).softmax(-1)[0, 0]
    wanted = torch.tensor([[0.5, 0.5, 0, 0, 0], [0.5, 0.5, 0, 0, 0], [0, 1, 0, 0, 0], [0.2] * 5, [0.2] * 5])
    torch.testing.assert_close(probs, wanted)


def tape(mask: Tensor, examples: float, tokens: float) -> Tape:
    return Tape(student={}, teacher={}, labels=None, mask=mask, examples=examples, tokens=tokens)


def test_mean_is_the_same_however_the_step_is_cut() -> None:
    mask = batch(VOCAB, [3, 7, 1, 4, 6])["attention_mask"]
    values = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    whole = tape(mask, 5, 21)
    torch.testing.assert_close(whole.mean(values), values[mask.bool()].mean())
    torch.testing.assert_close(whole.mean(values[:, 0]), values[:, 0].mean())
    for cuts in ([1, 4], [2, 2, 1], [1, 1, 1, 1, 1]):
        pieces = list(zip(mask.split(cuts), values.split(cuts), strict=True))
        by_token = sum(tape(m, 5, 21).mean(v) for m, v in pieces)
        by_example = sum(tape(m, 5, 21).mean(v[:, 0]) for m, v in pieces)
        torch.testing.assert_close(by_token, whole.mean(values))
        torch.testing.assert_close(by_example, whole.mean(values[:, 0]))


def test_mean_over_two_processes_is_the_average_of_their_sums() -> None:
    mask = batch(VOCAB, [3, 7])["attention_mask"]
    values = torch.randn(2, 7, generator=torch.Generator().manual_seed(0))
    each = [tape(mask[i : i + 1], 2 / 2, 10 / 2).mean(values[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(sum(each) / 2, values[mask.bool()].mean())


def test_mean_does_not_see_padding() -> None:
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    values = torch.tensor([[1.0, 2.0, torch.nan], [3.0, torch.inf, -torch.inf]], requires_grad=True)
    mean = tape(mask, 2, 3).mean(values)
    mean.backward()
    assert mean.item() == 2.0
    torch.testing.assert_close(values.grad, mask / 3)


def test_mean_says_which_shapes_it_takes() -> None:
    with pytest.raises(
        InputError, match=r"shape \(2, 4, 3\), wanted \(2,\), one per example, or \(2, 3\), one per tok"
    ):
        tape(torch.ones(2, 3), 2, 6).mean(torch.ones(2, 4, 3))
