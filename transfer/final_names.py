"""What each place of a transfer is called where it is published: by its own name, or by another that is free.

What gets another name is an entry of the transfer: a file, a link, or a folder with all that it holds. Folders that
no entry names (those above a file that was sent as `sub/1`) are only ways there, and are shared with whatever is in
them already: there it is `sub/1` that becomes `sub/1 (1)`.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Collection

from transfer.folder import Folder
from transfer.merge import Node, Parts, own_or_other
from transfer.model import EntryKind


class FinalNames:
    """chosen: the names that are not their own, by `merge.key` of their places; grows in place."""

    def __init__(self, root: Node, chosen: dict[str, str]) -> None:
        self.chosen = chosen
        self._root = root
        self._taken: dict[Parts, set[str]] = {}

    def choose_free(self, base: Folder, staged: Folder | None, merged: Collection[Parts]) -> None:
        """Another name for every entry whose own is taken, and for a shared folder where something else stands.

        staged: as for `plan`; what is missing from it was published before an interruption, and has its name.
        merged: folders that are half published: what is in them goes where the rest of it went.
        """
        self._choose_free(self._root, (), base, staged, merged)

    def _choose_free(
        self, above: Node, parts: Parts, here: Folder, staged: Folder | None, merged: Collection[Parts]
    ) -> None:
        for node in above.children.values():
            place = (*parts, node.name)
            ready = staged.look(node.name) if staged is not None else None
            if staged is not None and ready is None:
                continue
            found = here.look(self.of(place))
            if found is None or (ready is not None and os.path.samestat(found, ready)):
                continue
            if not (node.shared and stat.S_ISDIR(found.st_mode)):
                if place in merged:
                    continue  # `plan` says what stands in the way of the rest
                self.choose_another(place, here)
            if node.shared:
                self._enter(node, place, here, staged, merged)

    def _enter(
        self, node: Node, place: Parts, here: Folder, staged: Folder | None, merged: Collection[Parts]
    ) -> None:
        """A shared folder, if one is there."""
        name = self.of(place)
        if here.look(name) is None:
            return
        with here.folder(name) as below:
            if staged is None:
                self._choose_free(node, place, below, None, merged)
            else:
                with staged.folder(node.name) as ready:
                    self._choose_free(node, place, below, ready, merged)

    def choose_another(self, place: Parts, here: Folder) -> str:
        """`name (1).ext`, or the first number that is free here and in the transfer. Of a shared folder also one of which
        there is a folder already, so that all that is sent below it comes together again.

        here: the folder that it is to stand in.
        """
        node, wanted = self._root.at(place), self.of(place)
        taken = self._taken_in(place[:-1])
        stem, extension = (wanted, "") if node.kind is EntryKind.DIRECTORY else os.path.splitext(wanted)
        for number in itertools.count(1):
            candidate = f"{stem} ({number}){extension}"
            if candidate.casefold() in taken:
                continue
            found = here.look(candidate)
            if found is None or (node.shared and stat.S_ISDIR(found.st_mode)):
                break
        taken.add(candidate.casefold())
        self.chosen["/".join(place)] = candidate
        return candidate

    def _taken_in(self, folder: Parts) -> set[str]:
        """What the transfer has there. Made once: a hundred thousand files may need another name, all in one folder."""
        if folder not in self._taken:
            names = self._root.at(folder).children
            self._taken[folder] = {self.of((*folder, name)).casefold() for name in names}
        return self._taken[folder]

    def of(self, place: Parts) -> str:
        return own_or_other(place, self.chosen)

    def told(self) -> list[str]:
        """What a user is told that it has got: the names at the top; below a shared folder that leads to one thing only, that."""
        return ["/".join(self._told(node)) for node in self._root.children.values()]

    def _told(self, node: Node) -> Parts:
        place: Parts = (node.name,)
        final: Parts = (self.of(place),)
        while node.shared and len(node.children) == 1:
            (node,) = node.children.values()
            place = (*place, node.name)
            final = (*final, self.of(place))
        return final
