"""How a folder is run: by `serve.json`, which `smidgen bench --tune` writes into it, on machines like the one where it
was written; elsewhere by what is sound everywhere.

Single texts are run for latency, several for throughput. The two differ in threads: those of a small graph wait for
each other longer than they work, so that it is run on one, and batches of texts beside each other instead.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from smidgen.errors import InputError, ModelError
from smidgen.runtime.engines import DEFAULT, Way, find, installed, refusal
from smidgen.runtime.folder import read_json
from smidgen.runtime.machine import cpu, features, usable_cores
from smidgen.runtime.products import multiplications

FILE = "serve.json"
SCHEMA = 1
BATCH_TOKENS = 1024  # padded tokens in one call of the graph; 512 to 1,024 give more texts a second than 4,096
MOST_TOKENS = 1_000_000
WORTH = 500_000  # multiplications of a token that are worth a thread


@dataclass(frozen=True)
class Serving:
    """How single texts are run, and how many; `batch_tokens` are the padded tokens of one call."""

    latency: Way
    throughput: Way
    batch_tokens: int = BATCH_TOKENS

    def to_data(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        """`onnxruntime, 1 thread; batches of 1,024 tokens, 2 at once: onnxruntime, 1 thread`."""
        one, many = self.latency, self.throughput
        return f"{one}; batches of {self.batch_tokens:,} tokens, {many.calls} at once: {many}"


def serving(
    folder: Path, graph: Path, threads: int | None = None, engine: str | None = None, precision: str | None = None
) -> Serving:
    """How to run a folder here: what is asked for, else what it says if it was made on such a machine, else by rule.

    threads: of everything together.

    Raises:
        InputError: less than one thread, an unknown engine, or a precision that it or the processor does not have.
        ModelError: `serve.json` is not valid.
    """
    counted(threads)
    found = kept(folder)
    if found is None or (engine is not None and {found.latency.engine, found.throughput.engine} != {engine}):
        found = by_rule(graph, engine or DEFAULT)
    if precision is not None:
        one, many = (replace(way, precision=precision) for way in (found.latency, found.throughput))
        found = replace(found, latency=one, throughput=many)
    for way in (found.latency, found.throughput):
        if wrong := refusal(way.engine, way.precision):
            raise InputError(wrong)
    if threads is None:
        return found
    one, many = (replace(way, threads=threads, calls=1) for way in (found.latency, found.throughput))
    return replace(found, latency=one, throughput=many)


def by_rule(graph: Path, engine: str = DEFAULT) -> Serving:
    """One thread for each 500,000 multiplications of a token, as far as there are processors; several texts take them
    all."""
    find(engine)
    cores = usable_cores()
    threads = min(max(multiplications(graph) // WORTH, 1), cores) if cores > 1 else 1
    return Serving(Way(engine, threads=threads), Way(engine, threads=threads, calls=cores // threads))


def counted(threads: int | None) -> int:
    """The threads of one call; None = all processors that this process may use. Raises InputError below 1."""
    if threads is not None and threads < 1:
        raise InputError(f"threads: got {threads}, wanted 1 or more.")
    return usable_cores() if threads is None else threads


def machine() -> dict[str, Any]:
    """What the fastest way depends on, without a name of a machine."""
    return {"cpu": cpu(), "features": list(features()), "cores": usable_cores()}


def kept(folder: Path) -> Serving | None:
    """What `serve.json` says; None without one, on a machine of another kind, or where its engine is not installed.

    Raises:
        ModelError: it is not valid; every fault at once.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    data = read_json(file)
    if faults := list(_faults(data)):
        raise ModelError(
            f"{file}: {' '.join(faults)} Delete the file; smidgen bench {folder} --tune then finds it anew."
        )
    found = Serving(Way(**data["latency"]), Way(**data["throughput"]), data["batch_tokens"])
    ways = (found.latency, found.throughput)
    fits = data["machine"] == machine() and all(installed(way.engine) for way in ways)
    return found if fits else None


def check_writable(folder: Path) -> None:
    """Raises ModelError where what is found could not be kept in the folder."""
    file = folder / FILE
    if file.is_dir() or not os.access(file if file.exists() else folder, os.W_OK):
        raise ModelError(
            f"{file}: cannot be written, and what is found would be lost. Copy the folder to where you may write, or "
            "make it writable: chmod u+w."
        )


def write(folder: Path, found: Serving) -> Path:
    """Keep `found` as what is the fastest on machines like this one. Raises ModelError, with what it is."""
    file = folder / FILE
    try:
        file.write_text(text(found.to_data(), machine()), encoding="utf-8")
    except OSError as error:
        raise ModelError(
            f"{file}: cannot be written ({error.strerror}). What was found: {found}. Make room for it, then type the "
            "command again."
        ) from error
    return file


def text(found: Mapping[str, Any], host: Mapping[str, Any]) -> str:
    """What `serve.json` holds of a `Serving`, as data, and the machine that it is for."""
    return json.dumps({"schema": SCHEMA, "machine": host, **found}, indent=1)


def _faults(data: Mapping[str, Any]) -> Iterator[str]:
    wanted = {"schema", "machine", "latency", "throughput", "batch_tokens"}
    if set(data) != wanted:
        yield f"has {', '.join(sorted(data)) or 'nothing'}, wanted {', '.join(sorted(wanted))}."
        return
    if data["schema"] != SCHEMA:
        yield f"schema: got {data['schema']!r}, wanted {SCHEMA}."
    host = data["machine"]
    cores = host.get("cores") if isinstance(host, dict) else None
    if not isinstance(host, dict) or set(host) != {"cpu", "features", "cores"} or not _whole(cores):
        yield f"machine: got {host!r}, wanted cpu, features and a number of cores."
        cores = None
    for mode in ("latency", "throughput"):
        yield from _faults_of_way(mode, data[mode], math.inf if cores is None else cores)
    tokens = data["batch_tokens"]
    if not _whole(tokens) or tokens > MOST_TOKENS:
        yield f"batch_tokens: got {tokens!r}, wanted a whole number from 1 to {MOST_TOKENS:,}."


def _faults_of_way(mode: str, way: Any, cores: float) -> Iterator[str]:
    wanted = ("engine", "precision", "threads", "calls")
    if not isinstance(way, dict) or set(way) != set(wanted):
        yield f"{mode}: got {way!r}, wanted {', '.join(wanted)}."
        return
    counts = [name for name in ("threads", "calls") if not _whole(way[name])]
    yield from (f"{mode}.{name}: got {way[name]!r}, wanted a whole number of 1 or more." for name in counts)
    if not counts and way["threads"] * way["calls"] > cores:
        yield f"{mode}: got {way['threads']} threads in {way['calls']} calls at once, more than its {cores} cores."
    try:
        known = find(str(way["engine"])).PRECISIONS
        if way["precision"] not in known:
            yield f"{mode}.precision: got {way['precision']!r}, wanted {' or '.join(known)}."
    except InputError as error:
        yield f"{mode}.{error}"


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
