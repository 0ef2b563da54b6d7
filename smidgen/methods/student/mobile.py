"""Put a MobileBERT in the place of the stage's model: the thin student, or the wide teacher made for it.

Idea       Blocks whose input and output are `width` wide and whose inside is `inner` wide, y = x + U f(D x): thin with
           four stacked feed-forwards, h = g * h + b in place of layer norms, and ReLU (student); wider than its ends
           with one feed-forward, layer norms and GELU (teacher, IB-BERT). Both have ends of one width, so that hidden
           states compare without projections (Sun et al. 2020, arXiv:2004.02984). Token vectors are `embedding` wide
           and three neighbours make an input; they start from the source's table, cut by its SVD.
Takes      A float model of any family, for its table, tokenizer and number of blocks. No data.
Leaves     A plain Hugging Face model, `mobilebert`, with the source's tokenizer.
Beside     Of the two kinds, one stage each: the teacher is trained first, then the student by distil.hidden and
           distil.logits.
Fails      Deep and thin as it is, it wants long training on much text: from random blocks a small data set does not
           fill it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch

from smidgen.errors import InputError
from smidgen.lexicon import reduced
from smidgen.making import LARGEST, make
from smidgen.method import Context, Method, between, one_of

KINDS: dict[str, dict[str, Any]] = {
    "student": {
        "intra_bottleneck_size": 128,
        "intermediate_size": 512,
        "num_feedforward_networks": 4,
        "normalization_type": "no_norm",
        "hidden_act": "relu",
    },
    "teacher": {
        "intra_bottleneck_size": 1024,
        "intermediate_size": 4096,
        "num_feedforward_networks": 1,
        "normalization_type": "layer_norm",
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
    },
}


@final
@dataclass(frozen=True)
class Mobile(Method[None]):
    kind: str = "student"  # student | teacher (inverted bottleneck)
    blocks: int = 0  # 0 = as many as the source has; the paper has 24
    width: int = 512  # of the ends of a block, which are its hidden states
    inner: int = 0  # width inside a block; 0 = 128 in a student, 1024 in a teacher
    heads: int = 4
    feed_forward: int = 0  # 0 = four times `inner`
    embedding: int = 128  # width of the token vectors

    new_model: ClassVar[bool] = True

    def faults(self) -> Iterator[str]:
        yield from one_of("kind", self.kind, KINDS)
        for name in ("blocks", "inner", "feed_forward"):
            yield from between(name, getattr(self, name), 0, LARGEST)
        for name in ("width", "heads", "embedding"):
            yield from between(name, getattr(self, name), 1, LARGEST)

    def begin(self, ctx: Context) -> None:
        from transformers import MobileBertConfig

        assert ctx.model is not None
        table: Any = ctx.model.get_input_embeddings()
        config = ctx.model.config
        shape = KINDS[self.kind] | ({"intra_bottleneck_size": self.inner} if self.inner else {})
        shape["intermediate_size"] = self.feed_forward or 4 * shape["intra_bottleneck_size"]
        if shape["intra_bottleneck_size"] % self.heads:
            raise InputError(
                f"student.mobile: an inner width of {shape['intra_bottleneck_size']} cannot be cut into {self.heads} "
                "heads. Make it a multiple."
            )
        blocks = self.blocks or getattr(config, "num_hidden_layers", 0)
        if not blocks:
            raise InputError("student.mobile: blocks is 0, and the source has none to count. Write blocks: 24.")
        sizes = {
            "vocab_size": table.weight.shape[0],
            "num_hidden_layers": blocks,
            "hidden_size": self.width,
            "num_attention_heads": self.heads,
            "embedding_size": self.embedding,
            "max_position_embeddings": getattr(config, "max_position_embeddings", 512),
            "pad_token_id": config.pad_token_id,
        }
        model = make(ctx, MobileBertConfig(**shape, **sizes, **ctx.task.config()), "student.mobile")
        words: Any = model.get_input_embeddings()
        with torch.no_grad():
            words.weight.copy_(torch.from_numpy(reduced(table.weight.detach().numpy(), self.embedding)))
            if config.pad_token_id is not None:
                words.weight[config.pad_token_id] = 0  # the last token's input has its right neighbour in it
        ctx.adopt(model)
