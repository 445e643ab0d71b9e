"""xfer as a library: `await transfer.send(paths)` and `await transfer.fetch(ticket)`.

Both are imported when they are first used, so that importing a part of the package costs only that part.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transfer.fetch import fetch
    from transfer.send import send

__all__ = ["fetch", "send"]


class _Package(ModuleType):
    """The import system binds a submodule's name in its package; these two names mean the functions."""

    def __setattr__(self, name: str, value: object) -> None:
        story = name in __all__ and isinstance(value, ModuleType)
        super().__setattr__(name, getattr(value, name) if story else value)


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(importlib.import_module(f"transfer.{name}"), name)
    raise AttributeError(f"module 'transfer' has no attribute {name!r}")


sys.modules[__name__].__class__ = _Package
