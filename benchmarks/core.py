"""`make bench-core`: what the spine promises, measured on SST-2 with teachers that the project fine-tunes itself.

training   examples a second and quality of fine-tuning, beside the stock Trainer of transformers, same work, one run
runtime    text in, label out, beside ONNX Runtime's dynamic int8 driven by hand, same weights, interleaved
student    a 3-block student of MiniLM-6: quality kept and speed-up over the teacher in torch float32
install    bytes of the base install, time of the import, of loading a winner and of its first answer, without torch

`python benchmarks/core.py runtime student:0,1,2` runs only those, the second with three seeds.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import MODEL, ROOT, WORK, data, keep

EPOCHS, RATE, BATCH = 2, 1e-4, 32


def training(seeds: tuple[int, ...] = (0,)) -> None:
    """Alternate the two trainers, seed by seed; evaluation is outside the clock on both sides."""
    from smidgen.data import load_data
    from smidgen.measure import entries

    files = data("sst2")
    splits = load_data(**files)
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        for name, train in (("smidgen", ours), ("transformers.Trainer", stock)):
            seconds, examples, logits = train(splits, seed)
            quality = entries.quality_data(splits.task, logits, splits.test)
            rows.append({"trainer": name, "seed": seed, "seconds": seconds, "examples": examples, "test": quality})
            rows[-1]["examples_per_s"] = examples / seconds
            print(rows[-1], flush=True)
    speed = {n: [r["examples_per_s"] for r in rows if r["trainer"] == n] for n in ("smidgen", "transformers.Trainer")}
    ratio = [a / b for a, b in zip(speed["smidgen"], speed["transformers.Trainer"], strict=True)]
    result = {
        "what": f"fine-tuning MiniLM-6 on SST-2, {EPOCHS} epochs, batch {BATCH}, learning rate {RATE}, 2 threads",
        "ratio": {"mean": float(np.mean(ratio)), "each": ratio, "wanted": "at least 2"},
        "runs": rows,
        "n": len(splits.train),
    }
    keep("core.json", "training", result, list(seeds))


def ours(splits: Any, seed: int) -> tuple[float, int, np.ndarray]:
    """Fine-tune with smidgen; the clock of the loop without its evaluations of dev is not kept apart, so it counts."""
    from smidgen.measure.peers import TorchModel
    from smidgen.planner import plan
    from smidgen.recipe import Files, Recipe, Stage, Training, Use
    from smidgen.runner import run

    stage = Stage("teacher", (Use("tune.full"),), train=Training(epochs=EPOCHS, learning_rate=RATE, batch_size=BATCH))
    recipe = Recipe(model=MODEL, data=Files(**data("sst2")), stages=(stage,), seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        done = run(plan(recipe, splits), Path(folder), checkpoint_seconds=1e9)[0]
        history = done.artefact.record["history"]
        logits = TorchModel(done.artefact.path, splits.task).outputs(splits.test.texts)
    return history["seconds"], history["examples"], logits


def stock(splits: Any, seed: int) -> tuple[float, int, np.ndarray]:
    """Fine-tune with the stock Trainer at its defaults: float32, batches drawn at random, padded to their longest."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments

    from smidgen.source import load_model, resolve

    source = resolve(MODEL)
    tokenizer = AutoTokenizer.from_pretrained(str(source.path))

    def tokenised(split: Any) -> Dataset:
        found = tokenizer(list(split.texts), truncation=True, max_length=128)
        return Dataset.from_dict({**found, "labels": split.labels.tolist()})

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=EPOCHS,
            learning_rate=RATE,
            per_device_train_batch_size=BATCH,
            weight_decay=0.01,
            warmup_steps=0.1,
            seed=seed,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
        )
        trainer = Trainer(
            model=load_model(source, splits.task, seed),
            args=arguments,
            train_dataset=tokenised(splits.train),
            data_collator=DataCollatorWithPadding(tokenizer),
            processing_class=tokenizer,
        )
        started = time.monotonic()
        trainer.train()
        seconds = time.monotonic() - started
        logits = trainer.predict(tokenised(splits.test)).predictions
    return seconds, EPOCHS * len(splits.train), logits


def runtime() -> None:
    """The same fine-tuned weights through our export and by hand, all in one interleaved run."""
    from smidgen.data import load_data
    from smidgen.measure import entries
    from smidgen.runtime import load

    files = data("sst2")
    splits = load_data(**files)
    done = teacher_graphs(splits)
    hand = {
        "by hand: dynamo export": by_hand(done[0].artefact.path, optimise=False),
        "by hand: TorchScript export, fused by ONNX Runtime's optimizer": by_hand(done[0].artefact.path, optimise=True),
    }
    models = {"smidgen int8": load(done[2].artefact.path), "smidgen float32": load(done[1].artefact.path), **hand}
    rows = entries.timed_texts(splits.test)
    timed, speed = entries.time_all(models, rows, calls=1000)
    wanted = splits.test
    same = {n: float(np.mean(models[n].outputs(wanted.texts).argmax(1) == wanted.labels)) for n in models}
    result: dict[str, Any] = {
        "what": "MiniLM-6 fine-tuned on SST-2, text in to label out, SST-2 test sentences, 2 threads, interleaved",
        "n": 1000,
        "models": {
            name: {
                "p50_ms": timed[name].p50_ms,
                "p95_ms": timed[name].p95_ms,
                "texts_per_s_at_32": speed[name]["texts_per_s"],
                "test_accuracy": same[name],
                "times_as_fast_as_smidgen_int8_batch_1": entries.speedup_data(timed[name], timed["smidgen int8"]),
                "times_as_fast_as_smidgen_int8_batch_32": speed[name]["texts_per_s"]
                / speed["smidgen int8"]["texts_per_s"],
            }
            for name in models
        },
        "wanted": "smidgen int8 at least as fast as either by hand, at batch 1 and 32",
    }
    keep("core.json", "runtime", result, [0])


def teacher_graphs(splits: Any) -> Any:
    """Teacher, its float graph, its int8 graph."""
    from smidgen.planner import plan
    from smidgen.recipe import Files, Recipe, Stage, Training, Use
    from smidgen.runner import run

    stages = (
        Stage("teacher", (Use("tune.full"),), train=Training(epochs=3, learning_rate=RATE)),
        Stage("onnx", (Use("export.onnx"),)),
        Stage("int8", (Use("quant.dynamic"),)),
    )
    recipe = Recipe(model=MODEL, data=Files(**data("sst2")), stages=stages)
    return run(plan(recipe, splits), WORK / "student-0" / "stages")  # the same teacher as the student's of seed 0


class ByHand:
    """What people write: the stock tokenizer, an InferenceSession at its defaults, one softmax."""

    def __init__(self, folder: Path, graph: Path) -> None:
        import onnxruntime
        from transformers import AutoTokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        # A resting session must not take a core from the one that is timed next; ours has the same setting.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self.names = [value.name for value in self.session.get_inputs()]
        self.tokenizer = AutoTokenizer.from_pretrained(str(folder))
        self.threads = options.intra_op_num_threads

    def outputs(self, texts: Any, pairs: Any = None) -> np.ndarray:
        return np.concatenate([self._run(list(texts[i : i + 32])) for i in range(0, len(texts), 32)])

    def predict(self, texts: Any, pairs: Any = None) -> list[dict[str, Any]]:
        logits = self._run(list(texts))
        scores = np.exp(logits - logits.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        return [{"label": int(row.argmax()), "score": float(row.max())} for row in scores]

    def _run(self, texts: list[str]) -> np.ndarray:
        batch = self.tokenizer(texts, truncation=True, max_length=128, padding=True, return_tensors="np")
        return self.session.run(None, {name: batch[name].astype(np.int64) for name in self.names})[0]


def by_hand(folder: Path, optimise: bool) -> ByHand:
    """Export and quantise with the public functions of torch and ONNX Runtime alone."""
    import logging
    import warnings

    import onnx
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    name = "fused" if optimise else "dynamo"
    plain, target = WORK / f"hand-{name}.onnx", WORK / f"hand-{name}-int8.onnx"
    attention = "eager" if optimise else "sdpa"
    model = AutoModelForSequenceClassification.from_pretrained(str(folder), attn_implementation=attention).eval()
    batch = dict(
        AutoTokenizer.from_pretrained(str(folder))(["one text", "two texts here"], padding=True, return_tensors="pt")
    )
    if optimise:
        axes = {key: {0: "batch", 1: "length"} for key in batch}
        inputs = tuple(batch[key] for key in ("input_ids", "attention_mask", "token_type_ids"))
        names = ["input_ids", "attention_mask", "token_type_ids"]
        torch.onnx.export(
            model, inputs, str(plain), dynamo=False, input_names=names, output_names=["logits"], dynamic_axes=axes
        )
        heads, width = model.config.num_attention_heads, model.config.hidden_size
        fused = optimizer.optimize_model(str(plain), "bert", num_heads=heads, hidden_size=width)
        fused.save_model_to_file(str(plain))
    else:
        free = {0: torch.export.Dim("batch", min=1, max=4096), 1: torch.export.Dim("length", min=2, max=512)}
        program = torch.onnx.export(model, (), kwargs=batch, dynamo=True, dynamic_shapes=dict.fromkeys(batch, free))
        program.save(str(plain))
    graph = onnx.load(str(plain))
    constant = {tensor.name for tensor in graph.graph.initializer}
    kept = [info for info in graph.graph.value_info if info.name not in constant]
    del graph.graph.value_info[:]
    graph.graph.value_info.extend(kept)
    quantize_dynamic(
        graph,
        str(target),
        per_channel=True,
        weight_type=QuantType.QInt8,
        extra_options={"MatMulConstBOnly": True, "DefaultTensorType": onnx.TensorProto.FLOAT},
    )
    logging.disable(logging.NOTSET)
    return ByHand(folder, target)


def student(seeds: tuple[int, ...] = (0,)) -> None:
    """The whole main job at a depth of three, once a seed; everything but latency is of the test set."""
    import smidgen

    rows = []
    for seed in seeds:
        out = WORK / f"student-{seed}"
        report = smidgen.compress(
            MODEL,
            **data("sst2"),
            max_size="20MB",
            depths=(3,),
            finalists=1,
            seeds=1,
            out=out,
            seed=seed,
            command="bench-core",
        )
        winner, teacher = report["winner"]["numbers"], report["teacher"]["numbers"]
        plain = next(b for b in report["baselines"] if "without distillation" in b["name"])["numbers"]
        rows.append(
            {
                "seed": seed,
                "winner": report["winner"]["name"],
                "teacher_test": teacher["quality"],
                "student_test": winner["quality"],
                "quality_kept": winner["quality_kept"],
                "without_distillation": plain["quality"],
                "speedup": winner["speedup"],
                "p50_ms": {"teacher": teacher["latency"]["p50_ms"], "student": winner["latency"]["p50_ms"]},
                "size_mb": winner["size_mb"],
            }
        )
        print(rows[-1], flush=True)
    kept = [row["quality_kept"]["value"] for row in rows]
    result = {
        "what": "3 of MiniLM-6's blocks, distilled, int8, SST-2; teacher in torch float32 at batch 1",
        "quality_kept": {"mean": float(np.mean(kept)), "least": min(kept), "wanted": "at least 0.97"},
        "speedup": {"least": min(row["speedup"]["value"] for row in rows), "wanted": "at least 5"},
        "runs": rows,
        "n": rows[0]["student_test"]["n"],
    }
    keep("core.json", "student", result, list(seeds))


def install() -> None:
    """A fresh environment with `pip install .` and nothing else."""
    winner = next((p for p in sorted(WORK.glob("student-*/winner")) if p.is_dir()), None)
    if winner is None:
        sys.exit("install needs a winner: run 'python benchmarks/core.py student' first.")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "env"
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        python = str(home / "bin" / "python")
        before = _bytes(home)
        subprocess.run(
            [python, "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), str(ROOT)], check=True
        )
        shutil.rmtree(ROOT / "build", ignore_errors=True)
        size = _bytes(home) - before
        imports = [_timed(python, "import smidgen") for _ in range(5)]
        script = (
            "import time; t = time.perf_counter(); import smidgen; "
            f"m = smidgen.load({str(winner)!r}); m.predict('a fine film'); "
            "import sys; print(time.perf_counter() - t, 'torch' in sys.modules)"
        )
        loads = [
            subprocess.run([python, "-c", script], capture_output=True, text=True, check=True).stdout.split()
            for _ in range(5)
        ]
        found = subprocess.run(
            [python, "-m", "pip", "list", "--format", "json"], capture_output=True, text=True, check=True
        )
    result = {
        "what": "pip install . in a fresh environment",
        "base_install_mb": {"value": size / 1e6, "wanted": "under 250", "of": "files added to an empty environment"},
        "import_s": {"median": float(np.median(imports)), "each": imports, "wanted": "under 1, interpreter included"},
        "load_and_first_answer_s": {
            "median": float(np.median([float(t) for t, _ in loads])),
            "each": [float(t) for t, _ in loads],
            "wanted": "under 2, import included",
        },
        "torch_imported": any(flag == "True" for _, flag in loads),
        "packages": sorted(package["name"] for package in json.loads(found.stdout)),
        "n": 5,
    }
    keep("core.json", "install", result, [])


def _bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def _timed(python: str, code: str) -> float:
    started = time.perf_counter()
    subprocess.run([python, "-c", code], check=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    WORK.mkdir(exist_ok=True)
    sections = {"student": student, "runtime": runtime, "training": training, "install": install}
    for chosen in sys.argv[1:] or sections:
        name, _, seeds = chosen.partition(":")
        sections[name](*([tuple(map(int, seeds.split(",")))] if seeds else []))
