"""The configs of all students, apart from their models: transformers loads its configs before it can load a model."""

from __future__ import annotations

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig


@strict
class BilstmConfig(PreTrainedConfig):
    model_type = "smidgen-bilstm"

    vocab_size: int = 30522
    embedding_size: int = 128
    lstm_size: int = 150  # of one direction
    head_size: int = 200  # of the ReLU layer; 0 = none
    pooling: str = "last"
    dropout: float | int = 0.1
    pad_token_id: int | None = 0


@strict
class SiameseConfig(BilstmConfig):
    model_type = "smidgen-siamese"


@strict
class CnnConfig(PreTrainedConfig):
    model_type = "smidgen-cnn"

    vocab_size: int = 30522
    embedding_size: int = 128
    widths: list[int] | tuple[int, ...] = (3, 4, 5)  # tokens in a window, one convolution each
    channels: int = 100  # of each convolution
    head_size: int = 0  # of a ReLU layer before the classes; 0 = none
    dropout: float | int = 0.1
    pad_token_id: int | None = 0


@strict
class StaticConfig(PreTrainedConfig):
    model_type = "smidgen-static"

    vocab_size: int = 30522
    embedding_size: int = 256
    head_size: int = 0  # of a ReLU layer before the classes; 0 = none
    dropout: float | int = 0.1
    pad_token_id: int | None = 0


@strict
class CnnLstmConfig(PreTrainedConfig):
    model_type = "smidgen-cnn-lstm"

    vocab_size: int = 30522
    embedding_size: int = 100
    alphabet_size: int = 128  # character ids, of which 0 is no character
    character_size: int = 30
    character_window: int = 3
    channels: int = 30  # of the convolution over characters
    longest: int = 12  # characters of a token that are looked at
    lstm_size: int = 100  # of one direction
    head_size: int = 0  # of a ReLU layer before the classes; 0 = none
    dropout: float | int = 0.3
    pad_token_id: int | None = 0


CONFIGS: tuple[type[PreTrainedConfig], ...] = (BilstmConfig, SiameseConfig, CnnConfig, StaticConfig, CnnLstmConfig)
