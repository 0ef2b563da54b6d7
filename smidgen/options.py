"""Options that several commands share, with their words of help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
MaxLatency = Annotated[str | None, typer.Option(help="Text in to label out, batch 1: p95=2ms")]
MaxSize = Annotated[str | None, typer.Option(help="Bytes on disk of what is deployed: 25MB")]
MaxMemory = Annotated[str | None, typer.Option(help="Peak memory of a process that predicts: 300MB")]
MinQuality = Annotated[str | None, typer.Option(help="97%teacher, 'accuracy>=0.91' or 0.91")]
Out = Annotated[Path, typer.Option(help="The folder for everything that is made.")]
Train = Annotated[str, typer.Option(help="Labelled texts: csv, tsv, jsonl, parquet or conll, or a Hub id.")]
Dev = Annotated[str | None, typer.Option(help="Texts to choose on; left out: a seeded part of train.")]
Test = Annotated[str | None, typer.Option(help="Texts to report on; read once, at the end.")]
HeldOut = Annotated[
    str | None, typer.Option(help="Texts that no stage reads, but for checks; smidgen bench scores a graph on them.")
]
Unlabeled = Annotated[str | None, typer.Option(help="More texts of the same kind; the teacher labels them.")]
TextColumn = Annotated[
    str | None, typer.Option(help="Column of the text, the words to tag, or the question; found by its name if usual.")
]
PairColumn = Annotated[str | None, typer.Option(help="Column of the second text of a pair, or of the context.")]
LabelColumn = Annotated[str | None, typer.Option(help="Column of the label, the tags, or the answers.")]
TaskColumn = Annotated[str | None, typer.Option(help="Column that names the task of a row, with --task several.")]
MultiLabel = Annotated[bool | None, typer.Option("--multi-label/--single-label", help="Several labels a text.")]
Seed = Annotated[int, typer.Option(help="Everything random follows from it.", min=0, max=2**32 - 1)]
On = Annotated[str | None, typer.Option("--on", help="ray: stages and teacher labels on a Ray cluster.")]
RayAddress = Annotated[
    str | None, typer.Option(help="Of the cluster; left out: RAY_ADDRESS, or a Ray of its own on this machine.")
]
Cores = Annotated[int | None, typer.Option(help="With --on ray: of each stage. Left out: 1.", min=1)]
Track = Annotated[
    list[str] | None, typer.Option("--track", help="tensorboard, mlflow, wandb or trackio: log training there too.")
]
Threads = Annotated[
    int | None, typer.Option(help="Of everything together; left out: as the folder says, or by its size.")
]
Engine = Annotated[str | None, typer.Option(help="onnxruntime or openvino; left out: as the folder says.")]
Precision = Annotated[
    str | None, typer.Option(help="Of what is not in int8: float32, or with openvino bfloat16; left out likewise.")
]
Metric = Annotated[
    str | None,
    typer.Option(help="classify, tag: accuracy or f1; several: accuracy; answer: f1 or exact. Left out: its own."),
]
MaxLength = Annotated[int | None, typer.Option(help="Tokens a text is cut at; left out: fits the data.")]
TaskName = Annotated[
    str,
    typer.Option(
        "--task",
        help="classify, several (classifications, a row names its task), tag (lists of words and tags) or answer "
        "(find it in a context).",
    ),
]
