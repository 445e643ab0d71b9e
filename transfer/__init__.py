"""xfer as a library: `await transfer.send(paths)` and `await transfer.fetch(ticket)`, as the commands do it.

    send, fetch          files, folders, streams; by a ticket
    fetch_room           what a consumer has not had of a room; `send(…, room=…)` posts there
    unfinished, resume   what this host has begun and not ended, and going on with it
    jobs, watch          what runs on any host of the same user: `async with jobs() as mine`, `watch(job, on_heard=…)`

README.md beside this file has an example of each; `transfer.events` is what a listener hears, `transfer.errors` what is raised.
FORMAT.md is what crosses the wire. All are imported when they are first used, so that a part of the package costs only that part.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transfer.fetch import fetch
    from transfer.jobs import jobs
    from transfer.room_fetch import fetch_room
    from transfer.send import send
    from transfer.unfinished import resume, unfinished
    from transfer.watch import watch

__all__ = ["fetch", "fetch_room", "jobs", "resume", "send", "unfinished", "watch"]
_HOME = {"fetch_room": "room_fetch", "resume": "unfinished"}
"""Where what is not called like its module is defined."""


class _Package(ModuleType):
    """The import system binds a submodule's name in its package; these names mean the functions."""

    def __setattr__(self, name: str, value: object) -> None:
        story = name in __all__ and isinstance(value, ModuleType)
        super().__setattr__(name, getattr(value, name) if story else value)


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(importlib.import_module(f"transfer.{_HOME.get(name, name)}"), name)
    raise AttributeError(f"module 'transfer' has no attribute {name!r}")


sys.modules[__name__].__class__ = _Package
