"""Which files are whole and which are in part, counted from the chunks as they become safe."""

from __future__ import annotations

from itertools import islice

from transfer.chunks import Manifest
from transfer.events import FileProgress

SHOWN = 3
"""Files in part that are told of, at most."""


class FileParts:
    """whole: how many files are safe to their last byte; empty ones are from the start.

    Costs a look-up for each chunk, not for each file, and remembers only the files that are in part.
    """

    def __init__(self, manifest: Manifest) -> None:
        """manifest: of known length."""
        self._manifest = manifest
        self._part: dict[int, int] = {}  # bytes, by the entry's number; what grew last is last
        self.whole = manifest.files - manifest.filled

    def add(self, chunk: int) -> None:
        """It is safe, and was not before."""
        whole, torn = self._manifest.shares(chunk)
        self.whole += whole
        for extent in torn:
            done = self._part.pop(extent.entry, 0) + extent.length
            if done == self._manifest.entries[extent.entry].size:
                self.whole += 1
            else:
                self._part[extent.entry] = done

    def newest(self) -> list[FileProgress]:
        """The files in part that grew last, the newest first."""
        found = []
        for number in islice(reversed(self._part), SHOWN):
            entry = self._manifest.entries[number]
            path = entry.path.decode("utf-8", "surrogateescape")
            found.append(FileProgress(path, self._part[number], entry.size or 0))
        return found
