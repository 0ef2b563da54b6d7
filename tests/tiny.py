"""Tiny random models of every family, and batches for them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

FAMILIES = ["bert", "roberta", "distilbert", "electra", "mpnet", "modernbert", "mobilebert"]
VOCAB = 120
PAD = 1  # for all families: RoBERTa's own, and MPNet's code allows no other

_SHAPES: dict[str, dict[str, Any]] = {
    "distilbert": {"dim": 32, "n_heads": 4, "hidden_dim": 64},
    "electra": {"embedding_size": 16},
    "mobilebert": {"embedding_size": 16, "intra_bottleneck_size": 32, "initializer_range": 0.05},  # it has no norms
    "modernbert": {"local_attention": 8, "cls_token_id": 0, "sep_token_id": 2},
}


def tiny(
    family: str, blocks: int = 2, labels: int = 3, seed: int = 0, head: str = "SequenceClassification", **overrides: Any
) -> PreTrainedModel:
    """A random `...For<head>` in eval mode; no weight is at its usual 0 or 1, so none can hide.

    `overrides` go to the config. `attn_implementation` is "sdpa" or "eager"; MPNet has no other than eager.
    """
    attention = overrides.pop("attn_implementation", "sdpa")
    shape = _SHAPES.get(family, {})
    if family != "distilbert":
        shape = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64} | shape
    common = {"vocab_size": VOCAB, "max_position_embeddings": 64, "num_hidden_layers": blocks, "num_labels": labels}
    ids = {"pad_token_id": PAD, "bos_token_id": 0, "eos_token_id": 2, "initializer_range": 0.2}
    config = AutoConfig.for_model(family, **(common | ids | shape | overrides))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, f"AutoModelFor{head}").from_config(
            config, attn_implementation="eager" if family == "mpnet" else attention
        )
        for parameter in model.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
        if family == "mobilebert":  # the last token sees its neighbour to the right, so padding has to be 0
            model.get_input_embeddings().weight.data[PAD] = 0
    return model.eval()


def batch(vocab: int, lengths: Sequence[int], pad_to: int | None = None, seed: int = 0) -> dict[str, Tensor]:
    """Random ids, padded on the right with PAD: `input_ids` and `attention_mask`, (len(lengths), pad_to), int64.

    The real tokens depend on `vocab`, `lengths` and `seed` only.
    """
    width = max(lengths) if pad_to is None else pad_to
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.full((len(lengths), width), PAD)
    attention_mask = torch.zeros(len(lengths), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        input_ids[row, :length] = torch.randint(3, vocab, (length,), generator=generator)
        attention_mask[row, :length] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask}
