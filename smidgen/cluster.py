"""Work on a Ray cluster, by way of an executor of the standard library.

A piece of work is a function and what it is given, all of which can be pickled; what it makes it leaves in a folder
that all nodes see. So a piece whose worker was lost is done again, on any node, and goes on from what it had left.
"""

from __future__ import annotations

import math
import os
import platform
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from smidgen.errors import InputError, MissingExtra, SmidgenError

T = TypeVar("T")

ANSWERS = 10  # seconds within which a cluster's head takes a call
RETRIES = 5  # times that a piece of work is done again after its worker was lost
LOCAL_STORE = 256 << 20  # bytes in which a local Ray keeps what is handed to pieces; what is more goes to disk
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
HANDED_ON = ("HF_HUB_OFFLINE", "HF_HOME", "TOKENIZERS_PARALLELISM")  # of the environment, to the nodes of a cluster


class Ray(Executor):
    """The cluster that this process is connected to.

    `submit` is for the process that started it all. Inside a piece of work `map` is right: while it waits, the piece's
    cores are lent to others, so that pieces may have parts.
    """

    def __init__(self, cores: int, gpus: int) -> None:
        self.cores, self.gpus = cores, gpus  # of each piece
        self.handed: list[tuple[Any, Any]] = []  # what was given to pieces, and where Ray has it

    @property
    def hands(self) -> int:
        """How many pieces there is room for at a time."""
        import ray

        each = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        room = [
            min(there.get("CPU", 0) // self.cores, there.get("GPU", 0) if self.gpus else math.inf) for there in each
        ]
        return max(1, int(sum(room)))

    def __reduce__(self) -> tuple[type[Ray], tuple[int, int]]:
        return Ray, (self.cores, self.gpus)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        told: Future[T] = Future()
        self._start(partial(fn, **kwargs), args).future().add_done_callback(partial(_tell, told))
        return told

    def map(
        self, fn: Callable[..., T], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[T]:
        import ray

        started = [self._start(fn, args) for args in zip(*iterables, strict=True)]
        try:
            while started:
                with _plain_errors():
                    found = ray.get(started[0], timeout=timeout)
                del started[0]
                yield found
        finally:
            for one in started:  # nobody asks for what is left
                ray.cancel(one)

    def _start(self, fn: Callable[..., Any], args: Iterable[Any]) -> Any:
        import ray

        piece = ray.remote(_work).options(num_cpus=self.cores, num_gpus=self.gpus, max_retries=RETRIES, name=_name(fn))
        return piece.remote(str(Path.cwd()), self.cores, fn, *map(self._hand, args))

    def _hand(self, value: Any) -> Any:
        """Ray's reference to a value, which is sent once however many pieces take it."""
        import ray

        for known, reference in self.handed:
            if known is value:
                return reference
        self.handed = [*self.handed[-15:], (value, ray.put(value))]
        return self.handed[-1][1]


@contextmanager
def cluster(address: str | None = None, cores: int = 1) -> Iterator[Ray]:
    """Ray at an address, else where RAY_ADDRESS says, else a new one on this machine that ends with the block.

    Args:
        cores: of each piece of work. Where the cluster has GPUs, each has one as well.

    Raises:
        MissingExtra: Ray is not installed.
        InputError: nothing answers at the address, or no node has so many cores.
    """
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    try:
        import ray
    except ImportError as error:
        raise MissingExtra("--on ray: Ray is not installed. Type: pip install 'smidgen[ray]'") from error
    own = not ray.is_initialized()
    if own:
        _connect(address or os.environ.get("RAY_ADDRESS") or "local")
    try:
        most = max((int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]), default=0)
        if cores > most:
            raise InputError(f"--cores {cores}: the largest node of the cluster has {most}. Give at most that.")
        yield Ray(cores, int(ray.cluster_resources().get("GPU", 0) > 0))
    finally:
        if own:
            ray.shutdown()


def _connect(address: str) -> None:
    import ray

    told: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "include_dashboard": False}
    if address == "local":
        told |= {"_node_ip_address": "127.0.0.1", "object_store_memory": LOCAL_STORE}
    else:
        given = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
        told |= {"runtime_env": {"env_vars": given}} if given else {}
    host, _, port = address.rpartition(":")
    try:
        if host and port.isdigit() and "://" not in address:  # Ray itself tries for minutes
            socket.create_connection((host, int(port)), ANSWERS).close()
        ray.init(address, **told)
    except (OSError, ValueError, RuntimeError) as error:
        why = str(error).strip().split("\n")[0][:200]
        raise InputError(f"--ray-address {address}: no Ray cluster answers ({why}). See docs/clusters.md.") from error


def _work(folder: str, cores: int, fn: Callable[..., T], *args: Any) -> T:
    """A piece of work, in a worker."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise InputError(
            f"{folder}: not there on {platform.node()}. The folder that the command is typed in has to be on every "
            "node of the cluster under the same name, with all that the command reads and writes."
        ) from error
    with _uninterrupted():
        import torch
    torch.set_num_threads(cores)
    return fn(*args)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """A worker whose piece is cancelled is interrupted, and serves others after it: half an import of torch cannot be
    taken up again. The interrupt comes when the block is over."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = list[int]()
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.default_int_handler)  # None: one that Python did not set
    if came:
        raise KeyboardInterrupt


def _name(fn: Callable[..., Any]) -> str:
    while isinstance(fn, partial):
        fn = fn.func
    return str(getattr(fn, "__name__", "work"))


def _tell(told: Future[T], done: Future[T]) -> None:
    """Hand on what Ray's future has, errors as they were raised."""
    try:
        with _plain_errors():
            found = done.result()
    except BaseException as error:
        told.set_exception(error)
    else:
        told.set_result(found)


@contextmanager
def _plain_errors() -> Iterator[None]:
    from ray.exceptions import RayError, RayTaskError

    try:
        yield
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        why = str(error).strip().split("\n")[0][:200]
        raise SmidgenError(
            f"Ray gave up a piece of work after doing it again {RETRIES} times ({why}). The same command goes on where "
            "it was; where memory was short, give more --cores, so that fewer pieces share a node."
        ) from error
