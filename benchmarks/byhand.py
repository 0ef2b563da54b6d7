"""What a careful person makes of the same data today, without smidgen; all that is chosen is chosen on dev.

Each answers as the runtime does, `predict(texts)` and `outputs(texts)`. What takes minutes is kept in a folder, with the seconds that
it took the first time.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rivals

from smidgen.data import Data
from smidgen.runtime.folder import read_json
from smidgen.source import load_model, resolve
from smidgen.splits import Split
from smidgen.tokens import open_tokenizer

EPOCHS, RATE, BATCH = 4, 1e-4, 32
STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # of C
RARE = 1e-3  # of the weights of tokens by how rare they are (Arora et al. 2017), as model2vec has them
WIDTH = 256  # of its vectors
HAND = "hand.json"


# A small pretrained model: the stock loop, torch's exporter, ONNX Runtime's dynamic int8, the stock tokenizer.


def encoder(splits: Data, model: str, home: Path, seed: int = 0) -> tuple[Any, dict[str, Any]]:
    """The model ready to ask, and what is to be told of it; trained unless `home` has it. The epoch is the best on dev."""
    if not (home / HAND).is_file():
        shutil.rmtree(home, ignore_errors=True)
        began = time.monotonic()
        best = _trained(splits, model, home, seed)
        rivals.onnx_int8(home)
        (home / HAND).write_text(json.dumps({"seconds": time.monotonic() - began, "chosen": best}), encoding="utf-8")
    return rivals.onnx_int8(home), read_json(home / HAND)


def _trained(splits: Data, model: str, home: Path, seed: int) -> str:
    from datasets import Dataset
    from transformers import AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments

    source = resolve(model)
    tokenizer = AutoTokenizer.from_pretrained(str(source.path))

    def tokenised(split: Split) -> Dataset:
        assert split.labels is not None
        found = tokenizer(list(split.texts), truncation=True, max_length=128)
        return Dataset.from_dict({**found, "labels": split.labels.tolist()})

    arguments = TrainingArguments(
        output_dir=str(home / "runs"),
        num_train_epochs=EPOCHS,
        learning_rate=RATE,
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=64,
        weight_decay=0.01,
        warmup_steps=0.1,
        seed=seed,
        report_to=[],
        eval_strategy="epoch",
        save_strategy="epoch",
        save_only_model=True,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(
        model=load_model(source, splits.task, seed),
        args=arguments,
        train_dataset=tokenised(splits.train),
        eval_dataset=tokenised(splits.dev),
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        compute_metrics=lambda said: {"accuracy": float((said.predictions.argmax(-1) == said.label_ids).mean())},
    )
    trainer.train()
    trainer.save_model(str(home))
    steps = int(trainer.state.best_global_step or 0)
    shutil.rmtree(home / "runs")
    return f"epoch {round(steps / (trainer.state.max_steps / EPOCHS))} of {EPOCHS}"


# What needs no encoder when it is asked.


class Linear:
    """Features of texts and a logistic regression on them, of the strength that is the best on dev."""

    def __init__(self, features: Callable[[Sequence[str]], Any], splits: Data, seed: int = 0) -> None:
        from sklearn.linear_model import LogisticRegression

        self.features = features
        rows, dev = features(splits.train.texts), features(splits.dev.texts)
        found = {}
        for strength in STRENGTHS:
            fitted = LogisticRegression(C=strength, max_iter=2000, random_state=seed).fit(rows, splits.train.labels)
            found[float(fitted.score(dev, splits.dev.labels)), -strength] = fitted  # of equals the simplest
        (self.score, strength), self.regression = max(found.items(), key=lambda one: one[0])
        self.chosen = f"C = {-strength:g}"
        self.weights, self.bias = self.regression.coef_.T.astype(np.float32), self.regression.intercept_

    def outputs(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> np.ndarray:
        scores = np.asarray(self.features(texts) @ self.weights + self.bias, np.float32)
        return np.concatenate([-scores, scores], 1) if scores.shape[1] == 1 else scores

    def predict(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[dict[str, Any]]:
        scores = np.exp(self.outputs(texts))
        scores /= scores.sum(-1, keepdims=True)
        return [{"label": int(row.argmax()), "score": float(row.max())} for row in scores]


def words(splits: Data) -> tuple[Linear, dict[str, Any]]:
    """TF-IDF of words and word pairs."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    began = time.monotonic()
    vectors = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True).fit(splits.train.texts)
    model = Linear(vectors.transform, splits)
    return model, {"seconds": time.monotonic() - began, "chosen": model.chosen}


def static(splits: Data, model: str, home: Path) -> tuple[Linear, dict[str, Any]]:
    """The mean of a text's token vectors: the model's own table, or what it makes of each token alone, weighted or not."""
    began = time.monotonic()
    folder = resolve(model).path
    tokenizer = open_tokenizer(folder)
    counts = np.bincount(np.concatenate(_ids(tokenizer, splits.train.texts)), minlength=tokenizer.get_vocab_size())
    rare = (RARE / (RARE + counts / counts.sum())).astype(np.float32)[:, None]
    own, alone, seconds = _tables(folder, home)
    tables = {"own table": own, "tokens alone": alone}
    tables |= {f"{name}, weighted": table * rare for name, table in tables.items()}
    tried = {name: Linear(Means(tokenizer, table), splits) for name, table in tables.items()}
    name = max(tried, key=lambda one: tried[one].score)
    told = {"seconds": seconds + time.monotonic() - began, "chosen": f"{name}, {tried[name].chosen}"}
    return tried[name], told


class Means:
    """Mean vectors of texts, (n, d), from a table (V, d)."""

    def __init__(self, tokenizer: Any, table: np.ndarray) -> None:
        self.tokenizer, self.table = tokenizer, table

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([self.table[ids].mean(0) if ids else self.table[0] for ids in _ids(self.tokenizer, texts)])


def _ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    if len(texts) == 1:
        return [tokenizer.encode(texts[0], add_special_tokens=False).ids]
    return [row.ids for row in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]


def _tables(folder: Path, home: Path) -> tuple[np.ndarray, np.ndarray, float]:
    """The table of the model, (V, D); the states of each token by itself, (V, WIDTH) by their principal axes; and the
    seconds that these took when they were made, if that was before."""
    import torch
    from sklearn.decomposition import PCA
    from transformers import AutoModel

    model = AutoModel.from_pretrained(str(folder)).eval()
    own = model.get_input_embeddings().weight.detach().numpy()
    file = home.with_suffix(".npz")
    if file.is_file():
        kept = np.load(file)
        return own, kept["alone"], float(kept["seconds"])
    began = time.monotonic()
    around = open_tokenizer(folder).encode("").ids  # of an empty text: the special tokens
    ids = torch.tensor([[around[0], token, around[-1]] for token in range(len(own))])
    with torch.inference_mode():
        states = torch.cat([model(input_ids=piece).last_hidden_state.mean(1) for piece in ids.split(512)])
    alone = PCA(WIDTH, random_state=0).fit_transform(states.numpy()).astype(np.float32)
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, alone=alone, seconds=time.monotonic() - began)
    return own, alone, 0.0
