"""Showing what comes out of a room: each item as a transfer of its own, and what became of all of them."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from cli.render import View
from transfer.events import Event, ItemBegun, Summary


class ItemByItem:
    """A view for each item, made anew when it begins; what comes between two goes to the last one."""

    def __init__(self, make: Callable[[], View]) -> None:
        self._make = make
        self._view = make()
        self._over = False

    def __enter__(self) -> Self:
        self._view.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._view.__exit__(kind, error, trace)

    def __call__(self, event: Event) -> None:
        if self._over or isinstance(event, ItemBegun):
            self._view.__exit__(None, None, None)
            self._view = self._make()
            self._view.__enter__()
        self._over = isinstance(event, Summary)
        self._view(event)

    def tick(self) -> None:
        self._view.tick()
