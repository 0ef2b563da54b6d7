"""Folders of PEFT and AdapterHub: the same outputs on either side, and what is another function is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from folders import LABELS, data_files, language_folder, model_folder
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import batch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from smidgen.delta import fit, read
from smidgen.errors import ArtefactError, InputError, ModelError
from smidgen.exchange import from_adapterhub, from_peft, to_adapterhub, to_peft
from smidgen.planner import plan
from smidgen.recipe import Files, Recipe, Stage, Training, Use
from smidgen.runner import run
from smidgen.source import Source, resolve
from smidgen.tasks import Classify

INPUTS = batch(120, [5, 9, 3])


@torch.no_grad()
def said(model: Any) -> Tensor:
    return model.eval()(**INPUTS).logits


def base_of(root: Path, family: str, labels: tuple[str, ...] | None = None) -> Source:
    return resolve(str(model_folder(root / family, family, labels)))


def plain(base: Source) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(base.path, num_labels=2)


SEEN = {"bert": ["query", "output.dense"], "distilbert": ["q_lin", "lin2"], "modernbert": ["Wqkv", "mlp.Wo"]}
HEADS = {"bert": ["classifier"], "distilbert": ["pre_classifier", "classifier"], "modernbert": ["head", "classifier"]}
WAYS: dict[str, Any] = {
    "lora": lambda targets, heads: LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=targets,
        modules_to_save=heads,
        rank_pattern={targets[0]: 2},
        alpha_pattern={targets[0]: 5},
        task_type="SEQ_CLS",
    ),
    "rslora": lambda targets, heads: LoraConfig(
        r=4,
        use_rslora=True,
        target_modules=targets,
        modules_to_save=heads,
        task_type="SEQ_CLS",
        layers_to_transform=[1],
    ),
    "dora": lambda targets, heads: LoraConfig(
        r=4, use_dora=True, target_modules=targets, modules_to_save=heads, task_type="SEQ_CLS"
    ),
    "ia3": lambda targets, heads: IA3Config(
        target_modules=targets, feedforward_modules=targets[1:], modules_to_save=heads, task_type="SEQ_CLS"
    ),
}


def theirs(base: Source, family: str, way: str, out: Path) -> Any:
    """A model as PEFT trains and saves it, with numbers of its own."""
    torch.manual_seed(3)
    model = get_peft_model(plain(base), WAYS[way](SEEN[family], HEADS[family]))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(out)
    return model


@pytest.mark.parametrize("family", SEEN)
@pytest.mark.parametrize("way", WAYS)
def test_peft_to_delta_to_peft(way: str, family: str, tmp_path: Path) -> None:
    base = base_of(tmp_path, family)
    wanted = said(theirs(base, family, way, tmp_path / "theirs"))
    delta = read(from_peft(tmp_path / "theirs", base, tmp_path / "delta", LABELS))
    assert delta.task.labels == LABELS
    torch.testing.assert_close(said(fit(delta, base)), wanted, atol=1e-5, rtol=0)
    to_peft(delta, base, tmp_path / "ours")
    again = PeftModel.from_pretrained(plain(base), tmp_path / "ours")
    torch.testing.assert_close(said(again), wanted, atol=1e-5, rtol=0)


def test_a_head_of_several_labels(tmp_path: Path) -> None:
    """PEFT's folder does not say that each output is a decision of its own; the card says where it is from."""
    base = base_of(tmp_path, "bert")
    wanted = said(theirs(base, "bert", "dora", tmp_path / "theirs"))
    folder = from_peft(tmp_path / "theirs", base, tmp_path / "delta", multi_label=True)
    delta = read(folder)
    assert delta.task == Classify(("LABEL_0", "LABEL_1"), multi_label=True) and delta.task.metric == "f1"
    found = fit(delta, base)
    assert found.config.problem_type == "multi_label_classification"
    torch.testing.assert_close(said(found), wanted, atol=1e-5, rtol=0)
    card = (folder / "README.md").read_text()
    assert "# classify, tuned with PEFT" in card and "intervals" not in card
    assert "Read from a folder of PEFT, as `lora`; it was not trained by smidgen. It names its base `" in card


def test_only_classifiers_have_several_labels(tmp_path: Path) -> None:
    base, folder = spoilt(tmp_path, task_type="TOKEN_CLS")
    with pytest.raises(InputError, match=r"has a head for the task tag, and --multi-label is of classifiers\."):
        from_peft(folder, base, tmp_path / "delta", multi_label=True)


# What of PEFT is refused.


def spoilt(root: Path, **changes: Any) -> tuple[Source, Path]:
    """A LoRA folder of a BERT whose config says something else."""
    base, folder = base_of(root, "bert"), root / "theirs"
    theirs(base, "bert", "dora", folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))
    return base, folder


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"peft_type": "LOHA"}, r"its peft_type is LOHA, smidgen reads LORA and IA3\. Merge it"),
        ({"task_type": "CAUSAL_LM"}, r"its task_type is 'CAUSAL_LM', smidgen reads SEQ_CLS, TOKEN_CLS, QUESTION_ANS\."),
        ({"init_lora_weights": "pissa"}, r"starts from pissa, which changed the base's weights too\. Save it again"),
        ({"bias": "all"}, r"sets bias to 'all', and what that computes is not a shift of projections alone"),
        ({"alpha_pattern": {"(": 3}}, r"lora_alpha or alpha_pattern cannot be read"),
        ({"lora_alpha": float("nan")}, r"its lora_alpha is nan, wanted a number\. Get adapter_config\.json whole"),
        ({"layer_replication": [[0, 2], [1, 2]]}, r"sets layer_replication to .* train again without it\."),
    ],
)
def test_other_functions_of_peft_are_refused(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    base, folder = spoilt(tmp_path, **changes)
    with pytest.raises(InputError, match=told):
        from_peft(folder, base, tmp_path / "delta")
    assert not (tmp_path / "delta").exists()


def rewritten(folder: Path, change: Any) -> None:
    file = folder / "adapter_model.safetensors"
    save_file({name: value.contiguous() for name, value in change(load_file(file)).items()}, file)


def cut(held: dict[str, Tensor], kind: str, by: Any) -> dict[str, Tensor]:
    return {name: by(value) if kind in name else value for name, value in held.items()}


@pytest.mark.parametrize(
    ("kind", "by", "told"),
    [
        ("lora_B", lambda v: v[:, :-1], r"has lora_A \(4, 32\), lora_B \(32, 3\), .*matrices\. Get it whole"),
        ("magnitude", lambda v: v[:-1], r"lora_magnitude_vector \((?:31|63),\), wanted .*Get it whole"),
    ],
)
def test_tensors_of_peft_that_do_not_go_together_are_refused(kind: str, by: Any, told: str, tmp_path: Path) -> None:
    """Padded with zeros they would be another function."""
    base, folder = spoilt(tmp_path)
    rewritten(folder, lambda held: cut(held, kind, by))
    with pytest.raises(InputError, match=told):
        from_peft(folder, base, tmp_path / "delta")


def test_numbers_that_are_none_and_nested_configs_are_refused(tmp_path: Path) -> None:
    base, folder = spoilt(tmp_path)
    rewritten(folder, lambda held: cut(held, "lora_A", lambda v: v * float("nan")))
    with pytest.raises(ArtefactError, match=r"lora_A\.weight has numbers that are not finite"):
        from_peft(folder, base, tmp_path / "delta")
    (folder / "adapter_config.json").write_text("[" * 100_000)
    with pytest.raises(ArtefactError, match=r"adapter_config\.json: cannot be read"):
        from_peft(folder, base, tmp_path / "delta")


def test_a_head_that_is_missing_is_told(tmp_path: Path) -> None:
    base, folder = spoilt(tmp_path)
    rewritten(folder, lambda held: {name: v for name, v in held.items() if "classifier" not in name})
    with pytest.raises(ModelError, match=r"holds no head, and .*/bert has none either\. Save it again with its head"):
        from_peft(folder, base, tmp_path / "delta", LABELS)
    headed = base_of(tmp_path / "headed", "bert", LABELS)  # its own head is then taken
    delta = read(from_peft(folder, headed, tmp_path / "delta"))
    assert torch.equal(
        delta.head["classifier.weight"], load_file(headed.path / "model.safetensors")["classifier.weight"]
    )


def test_a_head_that_is_half_there_is_told(tmp_path: Path) -> None:
    """As PEFT leaves DistilBERT's, of which it trains the last layer alone unless it is told."""
    base, folder = base_of(tmp_path, "distilbert"), tmp_path / "theirs"
    theirs(base, "distilbert", "dora", folder)
    rewritten(folder, lambda held: {name: v for name, v in held.items() if "pre_classifier" not in name})
    with pytest.raises(
        ModelError, match=r"the head lacks pre_classifier\.bias, pre_classifier\.weight, and .*modules_to"
    ):
        from_peft(folder, base, tmp_path / "delta")


def test_labels_are_counted(tmp_path: Path) -> None:
    base, folder = spoilt(tmp_path)
    with pytest.raises(InputError, match=r"got 3 labels, wanted 2, as many as its head has outputs"):
        from_peft(folder, base, tmp_path / "delta", ("a", "b", "c"))
    assert read(from_peft(folder, base, tmp_path / "delta")).task.labels == ("LABEL_0", "LABEL_1")


def test_modules_outside_the_blocks_and_other_bases_are_refused(tmp_path: Path) -> None:
    base, folder = spoilt(tmp_path)
    with pytest.raises(InputError, match=r"acts on bert\..*, which is no projection of a block of .*/distilbert"):
        from_peft(folder, base_of(tmp_path, "distilbert"), tmp_path / "delta")
    rewritten(folder, lambda held: {name.replace("layer.1.output", "pool"): v for name, v in held.items()})
    with pytest.raises(InputError, match=r"acts on bert\.encoder\.pool\.dense, which is no projection"):
        from_peft(folder, base, tmp_path / "delta")

    for change, told in (
        (
            lambda held: {n: v for n, v in held.items() if "lora_B" not in n},
            r"has lora_A \(4, 32\), .*wanted lora_A, lora_B",
        ),
        (lambda held: {n: v[..., :8] if "lora_A" in n else v for n, v in held.items()}, r"\(8, 4\).*Give the base"),
    ):
        theirs(base, "bert", "dora", folder)
        rewritten(folder, change)
        with pytest.raises(InputError, match=told):
            from_peft(folder, base, tmp_path / "delta")


def test_factors_of_a_narrower_model_are_refused(tmp_path: Path) -> None:
    """Cut to the base they would do something else without a word."""
    base, folder = base_of(tmp_path, "bert"), tmp_path / "theirs"
    theirs(base, "bert", "ia3", folder)
    rewritten(folder, lambda held: {n: v[:8] if v.shape[-1] == 1 else v for n, v in held.items()})
    with pytest.raises(ModelError, match=r"given\.0/query is \(8,\), wanted \(32,\)"):
        from_peft(folder, base, tmp_path / "delta")


class Runs:
    """What a pickle can do."""

    def __reduce__(self) -> Any:
        return os.system, ("true",)


def test_pickles_that_hold_more_than_tensors_are_not_opened(tmp_path: Path) -> None:
    base, folder = spoilt(tmp_path)
    held = load_file(folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").unlink()
    torch.save(held, folder / "adapter_model.bin")
    from_peft(folder, base, tmp_path / "delta")
    torch.save({"a": Runs()}, folder / "adapter_model.bin")
    with pytest.raises(ArtefactError, match=r"adapter_model\.bin holds more than tensors, which could run code"):
        from_peft(folder, base, tmp_path / "other")


def tuned(root: Path, method: str, settings: dict[str, Any], family: str = "bert") -> tuple[Source, Path]:
    """A base and the delta of a stage of one step on it."""
    base, files = base_of(root, family), data_files(root / "data")
    stage = Stage("t", (Use("tune.full"), Use(method, settings)), train=Training(epochs=1, learning_rate=1e-2))
    recipe = Recipe(str(base.path), Files(files["train"], files["dev"]), (stage,))
    return base, run(plan(recipe), root / "stages")[-1].artefact.path


def test_what_peft_cannot_hold_stays_a_delta(tmp_path: Path) -> None:
    base, folder = tuned(tmp_path, "tune.bitfit", {"sites": ("query",)})
    with pytest.raises(InputError, match=r"has the parts bias; a folder of PEFT holds one, of lora or scale\."):
        to_peft(read(folder), base, tmp_path / "out")


def test_a_tuned_lora_goes_to_peft(tmp_path: Path) -> None:
    base, folder = tuned(tmp_path, "tune.lora", {"kind": "pissa", "rank": 2})
    to_peft(read(folder), base, tmp_path / "out")
    wanted = AutoModelForSequenceClassification.from_pretrained(folder)
    again = PeftModel.from_pretrained(plain(base), tmp_path / "out")
    torch.testing.assert_close(said(again), said(wanted), atol=1e-5, rtol=0)


# AdapterHub.

COMMON = {"original_ln_after": True, "ln_before": False, "ln_after": False, "leave_out": [], "residual_before_ln": True}
CONFIGS: dict[str, dict[str, Any]] = {
    "double_seq_bn": {
        "mh_adapter": True,
        "original_ln_before": False,
        "non_linearity": "swish",
        "reduction_factor": 16,
    },
    "seq_bn": {"mh_adapter": False, "original_ln_before": True, "non_linearity": "relu", "reduction_factor": 8},
    "plain": {"mh_adapter": False, "original_ln_before": False, "non_linearity": "gelu", "leave_out": [0]},
    "par_bn": {"mh_adapter": False, "is_parallel": True, "non_linearity": "relu", "scaling": 4.0},
}


def hub(root: Path, config: dict[str, Any], pickled: bool = False) -> dict[str, Tensor]:
    """A folder as adapters saves it from a BertForSequenceClassification of two blocks; gives its tensors."""
    torch.manual_seed(5)
    root.mkdir()
    config = {**COMMON, "output_adapter": True, "reduction_factor": 8, "scaling": 1.0, "is_parallel": False, **config}
    width, held = 32 // config["reduction_factor"], {}
    for block in {0, 1} - set(config["leave_out"]):
        for where in ["attention.output", "output"] if config["mh_adapter"] else ["output"]:
            path = f"bert.encoder.layer.{block}.{where}.adapters.sst"
            shapes = {"adapter_down.0.weight": (width, 32), "adapter_down.0.bias": (width,)}
            shapes |= {"adapter_up.weight": (32, width), "adapter_up.bias": (32,)}
            held |= {f"{path}.{name}": 0.3 * torch.randn(shape) for name, shape in shapes.items()}
    about = {"name": "sst", "model_type": "bert", "model_class": "BertForSequenceClassification"}
    about |= {"hidden_size": 32, "version": "adapters.1.2.0"}
    (root / "adapter_config.json").write_text(json.dumps({**about, "config": config}))
    head = {"classifier.weight": torch.randn(2, 32), "classifier.bias": torch.randn(2)}
    labels = {"label2id": {"good": 1, "bad": 0}}
    (root / "head_config.json").write_text(json.dumps({**about, "name": None, "config": None, **labels}))
    if pickled:
        torch.save(held, root / "pytorch_adapter.bin")
        torch.save(head, root / "pytorch_model_head.bin")
    else:
        save_file(held, root / "adapter.safetensors")
        save_file(head, root / "model_head.safetensors")
    return held | head


def by_hand(base: Source, held: dict[str, Tensor], config: dict[str, Any]) -> Tensor:
    """The forward that the library's configs stand for, written out on BERT's own modules, in evaluation."""
    acts = {"relu": torch.relu, "swish": lambda x: x * x.sigmoid(), "gelu": torch.nn.functional.gelu}

    def around(path: str, module: Any) -> None:
        def forward(hidden: Tensor, residual: Tensor) -> Tensor:
            given = module.dense(hidden)
            own = {name.removeprefix(f"{path}.adapters.sst."): v for name, v in held.items() if name.startswith(path)}
            if not own:
                return module.LayerNorm(given + residual)
            read = module.LayerNorm(given + residual) if config.get("original_ln_before") else given
            read = residual if config.get("is_parallel") else read
            inner = acts[config["non_linearity"]](read @ own["adapter_down.0.weight"].T + own["adapter_down.0.bias"])
            added = config.get("scaling", 1.0) * (inner @ own["adapter_up.weight"].T + own["adapter_up.bias"])
            return module.LayerNorm(given + added + residual)

        module.forward = forward

    model = plain(base)
    for i, layer in enumerate(model.bert.encoder.layer):
        around(f"bert.encoder.layer.{i}.output", layer.output)
        around(f"bert.encoder.layer.{i}.attention.output", layer.attention.output)
    model.load_state_dict({name: v for name, v in held.items() if name.startswith("classifier")}, strict=False)
    return said(model)


@pytest.mark.parametrize("kind", CONFIGS)
def test_adapterhub_to_delta_to_adapterhub(kind: str, tmp_path: Path) -> None:
    base = base_of(tmp_path, "bert")
    held = hub(tmp_path / "theirs", CONFIGS[kind], pickled=kind == "seq_bn")
    wanted = by_hand(base, held, CONFIGS[kind])
    delta = read(from_adapterhub(tmp_path / "theirs", base, tmp_path / "delta"))
    assert delta.task.labels == LABELS
    torch.testing.assert_close(said(fit(delta, base)), wanted, atol=1e-5, rtol=0)
    to_adapterhub(delta, base, tmp_path / "ours", "sst")
    again = load_file(tmp_path / "ours" / "adapter.safetensors") | load_file(
        tmp_path / "ours" / "model_head.safetensors"
    )
    config = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())["config"]
    torch.testing.assert_close(by_hand(base, again, config), wanted, atol=1e-5, rtol=0)
    assert {name: value.shape for name, value in held.items()}.items() <= {n: v.shape for n, v in again.items()}.items()


def test_a_head_of_adapterhub_says_that_it_has_several_labels(tmp_path: Path) -> None:
    base = base_of(tmp_path, "bert")
    held = hub(tmp_path / "theirs", CONFIGS["seq_bn"])
    head = {f"heads.sst.1.{part}": held[f"classifier.{part}"] for part in ("weight", "bias")}
    save_file(head, tmp_path / "theirs" / "model_head.safetensors")
    config = {"head_type": "multilabel_classification", "layers": 1, "activation_function": "tanh", "use_pooler": True}
    config |= {"label2id": {"good": 1, "bad": 0}}
    (tmp_path / "theirs" / "head_config.json").write_text(json.dumps({"config": config}))
    delta = read(from_adapterhub(tmp_path / "theirs", base, tmp_path / "delta"))
    assert delta.task == Classify(("bad", "good"), multi_label=True)
    assert "Read from a folder of AdapterHub" in (tmp_path / "delta" / "README.md").read_text()


def test_adapterhub_names_of_distilbert(tmp_path: Path) -> None:
    base, folder = tuned(tmp_path, "tune.adapter", {"width": 4}, "distilbert")
    delta = read(folder)
    to_adapterhub(delta, base, tmp_path / "out", "sst")
    names = set(load_file(tmp_path / "out" / "adapter.safetensors"))
    assert "distilbert.transformer.layer.1.output_adapters.adapters.sst.adapter_down.0.weight" in names
    again = read(from_adapterhub(tmp_path / "out", base, tmp_path / "again"))
    torch.testing.assert_close(said(fit(again, base)), said(fit(delta, base)), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"inv_adapter": "nice"}, r"sets inv_adapter to 'nice', smidgen's adapters compute None alone"),
        ({"original_ln_after": False}, r"sets original_ln_after to False, smidgen's adapters compute True alone"),
        ({"mh_adapter": True, "original_ln_before": True}, r"are none of seq_bn, double_seq_bn and par_bn"),
        ({"scaling": "learned"}, r"its scaling is 'learned', wanted a number"),
        ({"scaling": None}, r"its scaling is None, wanted a number"),
        ({"leave_out": "0"}, r"its leave_out is '0', wanted a list of blocks"),
        ({"architecture": "lora"}, r"sets architecture to 'lora'"),
    ],
)
def test_other_functions_of_adapterhub_are_refused(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    hub(tmp_path / "theirs", {**CONFIGS["seq_bn"], **changes})
    with pytest.raises(InputError, match=told):
        from_adapterhub(tmp_path / "theirs", base_of(tmp_path, "bert"), tmp_path / "delta")


def test_adapters_of_another_depth_and_another_family_are_refused(tmp_path: Path) -> None:
    hub(tmp_path / "theirs", CONFIGS["seq_bn"])
    deeper = resolve(str(model_folder(tmp_path / "deeper", blocks=3)))
    with pytest.raises(ModelError, match=r"back\.2/down is in the file or in this base, not in both"):
        from_adapterhub(tmp_path / "theirs", deeper, tmp_path / "delta")
    with pytest.raises(InputError, match=r"both know bert, .*; the base is modernbert"):
        from_adapterhub(tmp_path / "theirs", base_of(tmp_path, "modernbert"), tmp_path / "delta")


@pytest.mark.parametrize(
    ("said_of_head", "told"),
    [
        ({"label2id": {"bad": 0, "good": 0}}, r"label2id in head_config\.json is .*, wanted a number from 0 for each"),
        ({"label2id": {"bad": 0, "good": "x"}}, r"label2id in head_config\.json is .* Give --label for each"),
        ({"label2id": ["bad", "good"]}, r"label2id in head_config\.json is \['bad', 'good'\], wanted"),
        ({"config": [1]}, r"the config in head_config\.json is \[1\], wanted an object"),
    ],
)
def test_labels_of_adapterhub_that_are_in_no_order_are_refused(
    said_of_head: dict[str, Any], told: str, tmp_path: Path
) -> None:
    hub(tmp_path / "theirs", CONFIGS["seq_bn"])
    (tmp_path / "theirs" / "head_config.json").write_text(json.dumps(said_of_head))
    with pytest.raises(InputError, match=told):
        from_adapterhub(tmp_path / "theirs", base_of(tmp_path, "bert"), tmp_path / "delta")


def test_a_flat_matrix_of_adapterhub_is_refused(tmp_path: Path) -> None:
    hub(tmp_path / "theirs", CONFIGS["seq_bn"])
    file = tmp_path / "theirs" / "adapter.safetensors"
    save_file({name: value.flatten() for name, value in load_file(file).items()}, file)
    with pytest.raises(InputError, match=r"adapter_(down\.0|up)\.weight is \(128,\), which is no weight"):
        from_adapterhub(tmp_path / "theirs", base_of(tmp_path, "bert"), tmp_path / "delta")


def test_heads_of_adapterhub_that_compute_something_else_are_refused(tmp_path: Path) -> None:
    base, folder = base_of(tmp_path, "bert"), tmp_path / "theirs"
    held = hub(folder, CONFIGS["seq_bn"])
    flexible = {"head_type": "classification", "layers": 1, "activation_function": None, "use_pooler": True}
    save_file(
        {f"heads.sst.1.{n}": held[f"classifier.{n}"] for n in ("weight", "bias")}, folder / "model_head.safetensors"
    )
    (folder / "head_config.json").write_text(json.dumps({"config": {**flexible, "label2id": {"bad": 0, "good": 1}}}))
    delta = read(from_adapterhub(folder, base, tmp_path / "delta"))
    assert torch.equal(delta.head["classifier.weight"], held["classifier.weight"]) and delta.task.labels == LABELS
    other = {**flexible, "layers": 2, "activation_function": "tanh", "use_pooler": False}
    (folder / "head_config.json").write_text(json.dumps({"config": other}))
    with pytest.raises(
        InputError, match=r"its head is classification of 2 layers with tanh, without the pooler, which"
    ):
        from_adapterhub(folder, base, tmp_path / "other")


def test_tuned_norms_do_not_go_to_adapterhub(tmp_path: Path) -> None:
    base, folder = tuned(tmp_path, "tune.adapter", {"width": 4, "kind": "houlsby"})
    with pytest.raises(
        InputError, match=r"has the parts adapter, norms; a folder of AdapterHub .* are tuned with norms: false\. Use"
    ):
        to_adapterhub(read(folder), base, tmp_path / "out")
    base, folder = tuned(tmp_path / "bare", "tune.adapter", {"width": 4, "kind": "houlsby", "norms": False})
    assert (to_adapterhub(read(folder), base, tmp_path / "out") / "adapter_config.json").is_file()


def test_a_head_that_foreign_folders_have_no_word_for_stays(tmp_path: Path) -> None:
    base, files = base_of(tmp_path, "bert"), data_files(tmp_path / "data")
    uses = (Use("tune.full"), Use("tune.lora", {"rank": 2}), Use("tune.head", {"pool": "mean"}))
    stage = Stage("t", uses, train=Training(epochs=1, learning_rate=1e-2))
    done = run(plan(Recipe(str(base.path), Files(files["train"], files["dev"]), (stage,))), tmp_path / "stages")[-1]
    for write, name in ((to_peft, "PEFT"), (to_adapterhub, "AdapterHub")):
        with pytest.raises(InputError, match=rf"has a head of tune\.head, of which a folder of {name} has no word"):
            write(read(done.artefact.path), base, tmp_path / "out")


def test_a_base_with_a_head_of_another_task_lends_it_no_labels(tmp_path: Path) -> None:
    """Such as a masked-language model, which most bases are."""
    folder = tmp_path / "theirs"
    theirs(base_of(tmp_path, "distilbert"), "distilbert", "dora", folder)
    base = resolve(str(language_folder(tmp_path / "language", "distilbert")))
    assert read(from_peft(folder, base, tmp_path / "delta")).task.labels == ("LABEL_0", "LABEL_1")


def test_a_base_with_a_head_of_several_labels_lends_it_them(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    base = base_of(tmp_path, "bert", ("calm", "glad"))
    config = json.loads((base.path / "config.json").read_text())
    (base.path / "config.json").write_text(json.dumps(config | {"problem_type": "multi_label_classification"}))
    base = resolve(str(base.path))
    theirs(base, "bert", "dora", folder)
    for asked in (False, True):
        task = read(from_peft(folder, base, tmp_path / f"delta-{asked}", multi_label=asked)).task
        assert task == Classify(("calm", "glad"), multi_label=True)
