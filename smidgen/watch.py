"""How work tells that it goes on: to someone who draws a bar, or looks away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Bar(Protocol):
    """One piece of work under way; `to` says how far it is."""

    def to(self, done: float, note: str = "") -> None: ...


class Watch(Protocol):
    """Someone who looks on."""

    def bar(self, name: str, total: float) -> AbstractContextManager[Bar]: ...

    def say(self, text: str) -> None: ...


class Silent:
    """Looks away."""

    @contextmanager
    def bar(self, name: str, total: float) -> Iterator[Bar]:
        yield _NoBar()

    def say(self, text: str) -> None:
        return None


class _NoBar:
    def to(self, done: float, note: str = "") -> None:
        return None
