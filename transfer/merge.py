"""Which renames bring a staging tree to its final names, and what stands in their way.

A place that is free takes a whole entry, folder or not, in one rename. A folder that exists is merged
into: its content moves name by name, as deep as needed, and a link in its place is never followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence

from transfer.errors import DestinationExists, UnsafeName, UsageError
from transfer.folder import Folder
from transfer.model import Entry, EntryKind
from transfer.paths import Place, printable
from transfer.staging import Move

Parts = tuple[str, ...]


class Node:
    """A place in the tree to publish. number: its entry; None for a folder that no entry names, and the root."""

    __slots__ = ("children", "kind", "name", "number")

    def __init__(self, name: str) -> None:
        self.name = name
        self.kind = EntryKind.DIRECTORY
        self.number: int | None = None
        self.children: dict[str, Node] = {}

    @property
    def shared(self) -> bool:
        """A folder that is only the way to what lies in it: one that is there already will do."""
        return self.number is None

    def of(self, kind: EntryKind) -> Iterator[Node]:
        return (child for child in self.children.values() if child.kind is kind)

    def at(self, parts: Parts) -> Node:
        """The place so far below this one."""
        node = self
        for part in parts:
            node = node.children[part]
        return node


def lay_out(entries: Sequence[Entry], places: Sequence[Place]) -> Node:
    """The root, which stands for the destination itself."""
    root = Node("")
    for number, (entry, place) in enumerate(zip(entries, places, strict=True)):
        node = root
        for part in place.parts:
            below = node.children.get(part)
            if below is None:
                below = node.children[part] = Node(part)
            node = below
        node.kind, node.number = entry.kind, number
    return root


def own_or_other(place: Parts, finals: Mapping[str, str]) -> str:
    """The final name of what stands at that place of the staging tree. finals: as of `Journal`."""
    return finals.get("/".join(place), place[-1]) if finals else place[-1]


def final_parts(place: Parts, finals: Mapping[str, str]) -> Parts:
    """Where that place is below the destination."""
    return tuple(own_or_other(place[: depth + 1], finals) for depth in range(len(place)))


def plan(
    root: Node, base: Folder, staged: Folder | None, finals: Mapping[str, str], *, overwrite: bool
) -> list[Move]:
    """The renames that are needed now, links last.

    Args:
        staged: the staging tree; what is missing from it has been published and needs no move. None asks
            before anything is staged: is there a conflict?
        finals: as of `Journal`.
    Raises:
        DestinationExists: a name is taken, and may not be replaced.
        UnsafeName: a link stands where a folder must be entered.
        UsageError: a folder to merge into is another file system.
    """
    survey = _Survey(finals, overwrite, base.facts().st_dev)
    survey.folder(root, (), (), base, staged)
    if survey.conflicts:
        raise already_there(survey.conflicts, overwrite=overwrite)
    return survey.moves + survey.links


class _Survey:
    def __init__(self, finals: Mapping[str, str], overwrite: bool, device: int) -> None:
        self._finals = finals
        self._overwrite = overwrite
        self._device = device
        self.moves: list[Move] = []
        self.links: list[Move] = []
        self.conflicts: list[str] = []

    def folder(
        self, node: Node, above: Parts, final_above: Parts, here: Folder, staged: Folder | None
    ) -> None:
        """here: the folder that is there. staged: the same one in the staging tree."""
        for child in node.children.values():
            ready = staged.look(child.name) if staged is not None else None
            if staged is not None and ready is None:
                continue
            parts = (*above, child.name)
            name = own_or_other(parts, self._finals)
            final = (*final_above, name)
            found = here.look(name)
            if found is None or (ready is not None and os.path.samestat(found, ready)):
                self._move(child, parts, final, ready)
            elif child.kind is EntryKind.DIRECTORY and stat.S_ISLNK(found.st_mode):
                raise UnsafeName(
                    f"{shown(final)} is a link here, and a folder in the transfer: it is not followed",
                    hint="move the link away, or choose another folder with -o",
                )
            elif child.kind is EntryKind.DIRECTORY and stat.S_ISDIR(found.st_mode):
                self._merge(child, parts, final, here, staged)
            elif child.kind is EntryKind.DIRECTORY or stat.S_ISDIR(found.st_mode) or not self._overwrite:
                self.conflicts.append(shown(final))
            else:
                self._move(child, parts, final, ready)

    def _move(self, node: Node, parts: Parts, final: Parts, ready: os.stat_result | None) -> None:
        moves = self.links if node.kind is EntryKind.LINK else self.moves
        moves.append(Move(parts, final, ready.st_ino if ready is not None else 0))

    def _merge(self, node: Node, parts: Parts, final: Parts, here: Folder, staged: Folder | None) -> None:
        with here.folder(final[-1]) as below:
            if below.facts().st_dev != self._device:
                raise UsageError(
                    f"{shown(final)} is another file system, and nothing can be renamed into it",
                    hint="fetch into it directly with -o",
                )
            if staged is None:
                self.folder(node, parts, final, below, None)
            else:
                with staged.folder(node.name) as ready:
                    self.folder(node, parts, final, below, ready)


def already_there(names: Sequence[str], *, overwrite: bool) -> DestinationExists:
    """names: printable, at least one; the first few are said. overwrite: what could be replaced was."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    said = f"{', '.join(names[:3])}{more} {'is' if len(names) == 1 else 'are'}"
    if overwrite:
        return DestinationExists(
            f"{said} a folder here and no folder in the transfer, or the other way round: that is never replaced",
            hint="move it away, or choose another folder with -o",
        )
    return DestinationExists(f"{said} there already")


def shown(parts: Parts) -> str:
    return printable("/".join(parts))
