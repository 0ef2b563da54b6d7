"""`make bench-runtime`: as fast as the processor allows, and at what cost in quality.

speed        smidgen's folders beside the same weights as people run them, text in to label out, all in one interleaved run
limit        operations a second that are achieved, against what the processor gives a large product
fusions      what each fusion of the graph brings
strings      token ids on 100,000 strings, and the smallest students' times
memory       peaks of processes that answer texts
training     bfloat16 and float32 over seeds (benchmarks/precisions.py)
calibrators  int8 by every calibrator on three tasks (benchmarks/precisions.py)

`python benchmarks/runtime.py speed` runs one section, `speed:MPNet` and `memory:MPNet` that of one model, into one of its own. Figures are of test; nothing was chosen on it. The models are those of
`distil.py` and `prune.py`, made first where they are not there yet.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import functools
import gc
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import distil
import fusions
import numpy as np
import precisions
import prune
import rivals
import strings
from common import GRAPHS, MODEL, WORK, data, keep

from smidgen.data import load_data
from smidgen.measure import entries
from smidgen.measure.memory import memory
from smidgen.measure.quality import interval
from smidgen.measure.speed import throughput
from smidgen.recipe import Stage, Training, Use
from smidgen.runtime import load
from smidgen.runtime.engines import Way, installed, refusal, session
from smidgen.runtime.engines.onnxruntime import open_session
from smidgen.runtime.folder import GRAPH, deployed_bytes
from smidgen.runtime.machine import usable_cores
from smidgen.source import resolve

FILE = "runtime.json"
ROOT = WORK / "runtime" / "stages"
LEARNT = Training(epochs=4, learning_rate=2e-3, batch_size=64)
BILSTM = Stage(
    "student",
    (Use("student.bilstm"), Use("distil.logits", {"loss_kind": "mse"})),
    source=MODEL,
    teacher="teacher",
    train=LEARNT,
)
CUT = Stage("cut", (Use("prune.fisher", {"speedup": prune.SPEEDUP, "price": "macs"}),), source="teacher")
MODELS: dict[str, tuple[Path, tuple[Stage, ...]]] = {  # where its stages are, and those up to its weights
    "MiniLM-6": (prune.ROOT / "stages", (prune.TEACHER,)),
    "MiniLM-6, cut unevenly": (prune.ROOT / "stages", (prune.TEACHER, CUT)),
    "3 blocks": (
        distil.ROOT,
        (distil.base_teacher(), *distil.STUDENTS["MiniLM, 3 blocks"]("distilled")),
    ),
    "BiLSTM": (ROOT, (prune.TEACHER, BILSTM)),
    "MPNet": (distil.ROOT, (distil.base_teacher(),)),
}
STATIC = Stage("static", (Use("quant.static"),), source="onnx")
WAYS: dict[str, tuple[str, str, str]] = {  # of ours: the folder, the engine and its precision
    "dynamic int8, ONNX Runtime": ("int8", "onnxruntime", "float32"),
    "static int8, ONNX Runtime": ("static", "onnxruntime", "float32"),
    "static int8, OpenVINO bf16": ("static", "openvino", "bfloat16"),
}
PEAKS: dict[tuple[str, str], tuple[str, ...]] = {  # by engine and precision, the graphs whose memory is measured
    ("onnxruntime", "float32"): ("onnx", "int8", "static"),
    ("openvino", "bfloat16"): ("onnx", "static"),
}
ANSWERED = 256  # sentences, by a process whose memory is measured
TEXTS = 320  # of each kind, at most
RIVALS: dict[str, Callable[..., rivals.Stock]] = {
    "torch float32": rivals.eager,
    "torch bf16": rivals.eager_bf16,
    "torch.compile": rivals.compiled,
    "ONNX Runtime float32": rivals.onnx_float32,
    "ONNX Runtime int8": rivals.onnx_int8,
    "ONNX Runtime fused int8": rivals.onnx_fused_int8,
    "OpenVINO float32": rivals.openvino_float32,
    "OpenVINO bf16": rivals.openvino_bf16,
    "OpenVINO NNCF int8": rivals.nncf_int8,
}
TOKENS = 512  # that articles are cut at
SENTENCES, ARTICLES = "SST-2 sentences", "BBC articles"
RUNS = {  # by the texts of a call, how many texts each contestant answers in a round, and how many rounds
    SENTENCES: {1: (60, 6), 32: (64, 5)},
    ARTICLES: {1: (6, 3), 32: (32, 1)},
}
LARGE = {
    SENTENCES: {1: (20, 3), 32: (32, 3)},
    ARTICLES: {1: (4, 2), 32: (32, 1)},
}  # of a base-size model, on which a call takes seconds
OURS = "smidgen"


def speed(names: Sequence[str] = tuple(MODELS)) -> None:
    """Each model's folder beside its rivals: latency of one text and of 32 at once, and quality on test.

    Ours is the fastest of `WAYS` on other texts, as `smidgen bench --tune` would have it.
    """
    from long import articles

    files = data("sst2")
    splits = load_data(**files)
    assert splits.test is not None and splits.test.labels is not None
    long = list(articles())
    order = np.random.default_rng(0).permutation(len(long))
    texts = {
        SENTENCES: [row[0] for row in entries.timed_texts(splits.test)],
        ARTICLES: [long[i] for i in order[:TEXTS]],
    }
    others = {SENTENCES: splits.train.texts[:TEXTS], ARTICLES: [long[i] for i in order[TEXTS : 2 * TEXTS]]}
    rows = []
    for name in names:
        folders = made(name)
        ours = opened(folders)
        contestants, failed = contest(folders["float"], splits.train.texts)

        @functools.cache
        def score(who: str, models: Any = ours | contestants) -> float:
            return float(
                entries.quality_data(splits.task, models[who].outputs(splits.test.texts), splits.test)["value"]
            )

        for kind, runs in _runs(name).items():
            if kind == ARTICLES:
                ours = opened({form: lengthened(folder) for form, folder in folders.items()})
                for one in contestants.values():
                    one.limit = TOKENS
            for batch, (count, rounds) in runs.items():
                way = first(times(ours, others[kind], batch, count, 3))
                timed = times({OURS: ours[way], **contestants}, texts[kind], batch, count, rounds)
                row = told(timed)
                exact, mine, best = (score(who) for who in ("torch float32", way, row["best_other"]))
                row |= {"test": {"torch float32": exact, OURS: mine, row["best_other"]: best}}
                found = {"model": name, "texts": kind, "batch": batch, "way": way, "points_lost": 100 * (exact - mine)}
                rows.append(found | row | {"failed": failed})
                print(rows[-1], flush=True)
        del ours, contestants, score
        gc.collect()
        result = {
            "what": "text in to label out, each model's weights in smidgen's folder and as people run them, interleaved",
            "threads": len(os.sched_getaffinity(0)),
            "n": {kind: {batch: list(run) for batch, run in runs.items()} for kind, runs in _runs(names[0]).items()},
            "rows": rows,
            "wanted": "1.2x the best of the others at batch 1 and 32 on sentences, never slower on articles, at most 0.3 "
            "points lost",
        }
        keep(FILE, _section("speed", names), result, [0])


def _section(section: str, names: Sequence[str]) -> str:
    return ", ".join([section, *(names if len(names) < len(MODELS) else ())])


def _runs(name: str) -> dict[str, dict[int, tuple[int, int]]]:
    return LARGE if name == "MPNet" else RUNS


def made(name: str) -> dict[str, Path]:
    """The folders of a model: its weights ("float"), its float32 graph ("onnx"), and in int8 ("int8" and "static")."""
    root, stages = MODELS[name]
    files = data("sst2") | ({"unlabeled": distil.films()} if root == distil.ROOT else {})
    done = common.make(root, load_data(**files), name, (*stages, *GRAPHS, STATIC), files, MODEL)
    paths = {one.planned.stage.name: one.artefact.path for one in done}
    return {"float": paths[stages[-1].name], **{form: paths[form] for form in ("onnx", "int8", "static")}}


def opened(folders: Mapping[str, Path]) -> dict[str, Any]:
    """Ours, ready to run."""
    return {way: load(folders[form], engine=engine, precision=bits) for way, (form, engine, bits) in WAYS.items()}


def lengthened(folder: Path) -> Path:
    """The same folder, which cuts its texts at 512 tokens and not at the length of the data that it learnt from."""
    target = WORK / "runtime" / "long" / folder.name
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target, copy_function=os.link)
    file = target / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8")) | {"model_max_length": TOKENS}
    file.unlink()
    file.write_text(json.dumps(settings), encoding="utf-8")
    return target


def contest(folder: Path, train: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The rivals that open, and why the others do not."""
    found: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for name, opened in RIVALS.items():
        started = time.monotonic()
        try:
            one = opened(folder, train) if opened is rivals.nncf_int8 else opened(folder)
            one.predict(["a text to open it with", "and another"])
            found[name] = one
        except Exception as error:  # whatever a library raises: it is told, and the others go on
            failed[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
        print(f"{folder.name}, {name}: {time.monotonic() - started:.0f} s {failed.get(name, '')}", flush=True)
    return found, failed


def times(
    contestants: Mapping[str, Any], texts: Sequence[str], batch: int, count: int, rounds: int
) -> dict[str, np.ndarray]:
    """Milliseconds of a call that answers `batch` texts, (rounds,): the mean of so many texts, all in turns."""
    calls = {name: one.predict for name, one in contestants.items()}
    found = throughput(calls, list(texts[:count]), batch, rounds)
    return {name: batch * 1e3 / one.samples for name, one in found.items()}


def first(timed: Mapping[str, np.ndarray]) -> str:
    """The fastest."""
    return min(timed, key=lambda name: float(np.median(timed[name])))


def told(timed: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Milliseconds a call, and ours against the best of the others with an interval that draws rounds anew."""
    best = first({name: found for name, found in timed.items() if name != OURS})
    drawn = np.random.default_rng(0).integers(0, len(timed[OURS]), (1000, len(timed[OURS])))
    low, high = interval(np.median(timed[best][drawn], 1) / np.median(timed[OURS][drawn], 1))
    value = float(np.median(timed[best]) / np.median(timed[OURS]))
    return {
        "ms": {name: float(np.median(found)) for name, found in timed.items()},
        "rounds": len(timed[OURS]),
        "best_other": best,
        "times_as_fast": {"value": value, "low": low, "high": high},
    }


# How far from the limit.

SHAPES = ((512, 512, 512), (1024, 1024, 1024), (2048, 2048, 2048), (768, 3072, 768), (4096, 384, 1536))


def limit() -> None:
    """Operations of a model on texts of one length, by the time that its graph takes, against the best product."""
    peaks = {kind: max(peak(kind, shape) for shape in SHAPES) for kind in ("float32", "int8")}
    rows = []
    for name in ("MiniLM-6", "MPNet", "3 blocks"):
        folders = made(name)
        for kind, form in (("float32", "onnx"), ("int8", "int8")):
            opened = session(folders[form] / GRAPH, Way("onnxruntime", threads=usable_cores()))
            for batch, tokens in ((1, 24), (32, 24), (1, 256)):
                feed = {key: np.ones((batch, tokens), np.int64) for key in opened.inputs}
                feed["input_ids"] *= 100
                seconds = quickest(functools.partial(opened.run, list(opened.outputs), feed))
                reached = operations(folders["float"], batch, tokens) / seconds
                rows.append(
                    {
                        "model": name,
                        "precision": kind,
                        "batch": batch,
                        "tokens": tokens,
                        "gigaops": reached / 1e9,
                        "of_peak": reached / peaks[kind],
                    }
                )
                print(rows[-1], flush=True)
    result = {
        "what": "2 x multiplications a second of the whole model, against the best of some products by ONNX Runtime, same precision",
        "peak_gigaops": {kind: value / 1e9 for kind, value in peaks.items()},
        "shapes": SHAPES,
        "n": 30,
        "rows": rows,
    }
    keep(FILE, "limit", result, [0])


def quickest(call: Callable[[], object], repeats: int = 30) -> float:
    """Seconds of the quickest of some calls: what disturbs only ever adds."""
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
    return min(found)


def operations(folder: Path, batch: int, tokens: int) -> float:
    """Two for each multiplication, counted by torch, less what the graph leaves out: in the last block of a classifier all
    but keys and values is of the first token alone."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model = rivals.open_model(folder)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(input_ids=torch.full((batch, tokens), 100), attention_mask=torch.ones(batch, tokens, dtype=torch.long))
    width, inner = model.config.hidden_size, model.config.intermediate_size
    each = 2 * (2 * width * width + 2 * width * inner) + 4 * tokens * width  # query, output, feed-forward; attention
    return float(counter.get_total_flops() - batch * (tokens - 1) * each)


def peak(kind: str, shape: tuple[int, int, int]) -> float:
    """Operations a second of (M, K) times a constant (K, N) in ONNX Runtime."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    m, k, n = shape
    draw = np.random.default_rng(0)
    if kind == "float32":
        weight, given = draw.normal(size=(k, n)).astype(np.float32), draw.normal(size=(m, k)).astype(np.float32)
        node, types = helper.make_node("MatMul", ["x", "w"], ["y"]), (TensorProto.FLOAT, TensorProto.FLOAT)
    else:
        weight = draw.integers(-127, 128, (k, n)).astype(np.int8)
        given = draw.integers(0, 256, (m, k)).astype(np.uint8)
        node, types = helper.make_node("MatMulInteger", ["x", "w"], ["y"]), (TensorProto.UINT8, TensorProto.INT32)
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", types[0], [m, k])],
        [helper.make_tensor_value_info("y", types[1], [m, n])],
        [numpy_helper.from_array(weight, "w")],
    )
    file = WORK / "runtime" / "product.onnx"
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(file))
    session = open_session(file, usable_cores())
    return 2 * m * k * n / quickest(lambda: session.run(None, {"x": given}))


# What each part brings, and what it needs.


def gained() -> None:
    """Of MiniLM-6 and of what is left of it after an uneven cut, in int8."""
    files = data("sst2")
    splits = load_data(**files)
    assert splits.test is not None
    rows = []
    for name in ("MiniLM-6", "MiniLM-6, cut unevenly"):
        made_of = fusions.graphs(ROOT, str(made(name)["float"]), splits, files)
        rows.append({"model": name, **fusions.gains(made_of, splits.test)})
        print(rows[-1], flush=True)
    what = "int8 graphs, text in to label out, SST-2 test sentences; time over that of the graph with all fusions"
    keep(FILE, "fusions", {"what": what, "n": fusions.BATCHES, "rows": rows}, [0])


def same_strings() -> None:
    """The smallest students are the convolution of one width and the static one."""
    files = data("sst2") | {"unlabeled": distil.films()}
    splits = load_data(**files)
    students = []
    for name in ("CNN of one width", "static"):
        stages = (distil.base_teacher(), *distil.STUDENTS[name]("distilled"), *GRAPHS)
        students.append(common.make(distil.ROOT, splits, name, stages, files, MODEL)[-1].artefact.path)
    found = strings.section(resolve(MODEL).path, students, strings.COUNT, 0)
    keep(FILE, "strings", found, [0])


def peaks(names: Sequence[str] = tuple(MODELS)) -> None:
    """Of a process that answers sentences, for every model in float32 and int8, by each engine that is there."""
    splits = load_data(**data("sst2"))
    assert splits.test is not None
    rows = []
    for name in names:
        folders = made(name)
        for (engine, bits), forms in PEAKS.items():
            for form in forms if installed(engine) and not refusal(engine, bits) else ():
                size = deployed_bytes(folders[form]) / 1e6
                found = memory(folders[form], splits.test.texts[:ANSWERED], engine=engine, precision=bits)
                about = {"model": name, "graph": form, "engine": engine, "size_mb": size, "most_mb": 2 * size + 150}
                rows.append(about | found.to_data())
                print(rows[-1], flush=True)
    result = {"what": f"peak of a process that answers {ANSWERED} SST-2 sentences", "n": ANSWERED, "rows": rows}
    keep(FILE, _section("memory", names), result, [0])


SECTIONS: dict[str, Callable[..., None]] = {
    "speed": speed,
    "limit": limit,
    "fusions": gained,
    "strings": same_strings,
    "memory": peaks,
    "training": precisions.training,
    "calibrators": precisions.calibrators,
}

if __name__ == "__main__":
    for chosen in sys.argv[1:] or SECTIONS:
        section, _, names = chosen.partition(":")
        SECTIONS[section](*[names.split(",")] if names else [])
