"""New models for a stage: what the methods of `student` share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from smidgen.errors import InputError
from smidgen.lexicon import FULL, KINDS, Lexicon, lexicon
from smidgen.method import Context, between, one_of, share

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

LARGEST = 4096  # of a width, a number of tokens in a window and the like
MOST = 1_000_000  # tokens of a vocabulary


def student_faults(
    embedding: int,
    hidden: int,
    dropout: float,
    vocabulary: str,
    vocabulary_size: int,
    kinds: Iterable[str] = (*KINDS, FULL),
) -> Iterator[str]:
    """Faults of what students with vectors of their own are all told, for `faults` of a method."""
    yield from between("embedding", embedding, 1, LARGEST)
    yield from between("hidden", hidden, 0, LARGEST)
    yield from share("dropout", dropout)
    yield from one_of("vocabulary", vocabulary, kinds)
    yield from between("vocabulary_size", vocabulary_size, 1, MOST)


def vocabulary(ctx: Context, kind: str, most: int, width: int, lower: bool = True) -> Lexicon:
    """A vocabulary from the stage's texts, its vectors from the model that the stage starts from; see `lexicon`."""
    from tokenizers import Tokenizer

    assert ctx.model is not None
    source = Tokenizer.from_file(str(ctx.source / "tokenizer.json"))
    table: Any = ctx.model.get_input_embeddings()
    pad_id = int(ctx.model.config.pad_token_id or 0)
    return lexicon(kind, source, table.weight.detach().numpy(), pad_id, ctx.sight.training_texts, most, width, lower)


def make(ctx: Context, config: PreTrainedConfig, method: str) -> PreTrainedModel:
    """A model of this config with a head for the stage's task, its weights drawn from the stage's seed.

    Raises:
        InputError: there is no such model for the task.
    """
    import torch
    import transformers

    torch.manual_seed(ctx.seed)
    auto = getattr(transformers, ctx.task.hf_class)
    try:
        model: PreTrainedModel = auto.from_config(config)
    except ValueError:
        raise InputError(
            f"{method}: makes no model for the task {ctx.task.name}. Use another student, such as student.bilstm."
        ) from None
    return model.eval()


def grow(ctx: Context, config: PreTrainedConfig, words: Lexicon, method: str) -> PreTrainedModel:
    """Make a model, give it the vectors of its vocabulary, and hand it to the stage."""
    import torch

    model = make(ctx, config, method)
    table: Any = model.get_input_embeddings()
    with torch.no_grad():
        table.weight.copy_(torch.from_numpy(words.table))
    ctx.adopt(model, words.tokenizer)
    return model
