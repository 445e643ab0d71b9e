"""Where fetched bytes go: the seam. `folder_sink` writes files and folders, `pipe` one file to a stream.

All methods block; `write` and `read` may be called from many threads, the others from one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from transfer.chunks import Extent, Manifest

Raw = bytes | bytearray | memoryview


class Sink(Protocol):
    """Takes a job's raw, verified bytes."""

    @property
    def notices(self) -> Sequence[str]:
        """Lines for people: names written escaped, links that could not be made."""
        ...

    @property
    def publishing(self) -> bool:
        """An earlier run verified and synced all and began to publish: `publish` is all that is left."""
        ...

    def begin(self, manifest: Manifest) -> None:
        """Once, before anything is written; after a resume, too.

        Raises UnsafeName, DestinationExists, DiskFull, UsageError, NotAllowed; nothing is left behind then.
        """
        ...

    def write(self, extents: Sequence[Extent], raw: Raw) -> None:
        """The bytes of these extents, end to end. Repeating is harmless. DiskFull leaves what is written."""
        ...

    def read(self, extents: Sequence[Extent]) -> bytes | bytearray:
        """What was written there; empty if it is not all there. It may be zeros where nothing was written."""
        ...

    def set_length(self, entry: int, size: int) -> None:
        """Bytes of an entry whose manifest does not say."""
        ...

    def publish(self) -> list[Path]:
        """Make it final and durable, once every byte is verified. Returns the paths to tell of (`final_names`).

        Raises as `begin`; after an error, or a kill, a resumed sink can publish again.
        """
        ...

    def state(self) -> bytes:
        """What finds it again after a kill; empty if nothing can. Valid from `begin` on."""
        ...

    def abandon(self) -> None:
        """Remove all that was not published. Idempotent."""
        ...

    def close(self) -> None:
        """Let go of descriptors. What is not published stays, for a resume. Idempotent.

        After `publish` this removes the journal: until then a resume finds that it was published.
        """
        ...


def absolute(output: str) -> str:
    """Compared between runs, which may start in other folders; a final slash means something."""
    slash = "/" if output.endswith(("/", os.sep)) else ""
    return os.path.abspath(output) + slash
