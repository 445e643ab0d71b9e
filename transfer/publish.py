"""From a verified staging tree to final names: sizes, times, links, one sync, then renames, under a journal.

Nothing stands under a final name before everything is settled and synced. A whole new folder appears with
one rename; into a folder that exists its content moves piece by piece. After a kill in between, what is
missing from the staging tree has been published: the journal tells where, and its inode proves it.

A mode that would lock the owner out (a read-only folder cannot be renamed by its owner, a file of mode 0
not reopened by a resume) is set only after the moves; until then the owner's own bits are added.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from functools import partial

from transfer.errors import DamagedData, UnsafeName
from transfer.final_names import FinalNames
from transfer.folder import Folder, chmod_file, sync_file
from transfer.handles import Handles
from transfer.merge import Node, Parts, already_there, plan, shown
from transfer.model import Entry, EntryKind
from transfer.paths import Place, printable
from transfer.staging import Journal, Move, Staging

FEW = 64
"""Up to this many files and folders are synced one by one; more with one call for the file system."""
_NO_SYMLINK_RIGHT = 1314
"""Source: ERROR_PRIVILEGE_NOT_HELD of Windows: links need developer mode there."""


def current_umask() -> int:
    """The umask can only be read by setting it; the strictest one stands for that instant."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


class Publisher:
    """Publishes one staging tree.

    Args:
        sizes: final sizes in bytes of entries whose manifest says None.
        finals: as of `Journal`; `rename` adds to it.
        overwrite: replace files and links, never a folder. rename: choose free names.
    """

    def __init__(
        self,
        staging: Staging,
        root: Node,
        entries: Sequence[Entry],
        places: Sequence[Place],
        sizes: Mapping[int, int],
        finals: dict[str, str],
        *,
        overwrite: bool,
        rename: bool,
    ) -> None:
        self._staging = staging
        self._base = staging.base
        self._root = root
        self._entries = entries
        self._places = places
        self._sizes = sizes
        self._finals = FinalNames(root, finals)
        self._overwrite = overwrite
        self._rename = rename
        self._umask = current_umask()
        self._few = len(entries) <= FEW
        self.notices: list[str] = []

    def refuse_conflicts(self) -> None:
        """Before a byte comes: raises as `plan` if publishing could not end well, as things are."""
        self._plan(None, ())

    def publish(self) -> list[str]:
        """Everything under its final name and durable. Returns what the user is told of: see `FinalNames.told`.

        Raises DestinationExists if somebody took a name meanwhile; another run carries on from there.
        """
        journal = self._staging.journal()
        everything: list[Move] = []
        if journal is None:
            self._settle()
        else:
            self._finals.chosen.update(journal.finals)
            everything = journal.moves
        carried = False
        while not carried:
            done = self._already_published(everything)
            moves = self._plan(self._staging.tree, done)
            everything = [*done, *moves]
            self._staging.write_journal(Journal(everything, self._finals.chosen))
            carried = self._carry_out(moves, everything)
        self._apply_late_modes(everything)
        return self._finals.told()

    # -- settle: all that can be done before the renames

    def _settle(self) -> None:
        self._settle_files(self._root, self._staging.tree)
        self._settle_folders(self._root, self._staging.tree)
        if self._few:
            self._staging.tree.sync()
        else:
            self._staging.tree.sync_everything()

    def _settle_files(self, node: Node, here: Folder) -> None:
        for child in node.of(EntryKind.FILE):
            self._settle_file(child, here)
        for child in node.of(EntryKind.DIRECTORY):
            with here.folder(child.name) as below:
                self._settle_files(child, below)

    def _settle_file(self, node: Node, here: Folder) -> None:
        entry = self._entry(node)
        size = self._sizes[node.number or 0] if entry.size is None else entry.size
        if not self._few and self._is_settled(here.look(node.name), entry, size):
            return
        try:
            fd = here.open(node.name, os.O_RDWR | (os.O_CREAT if size == 0 else 0))
        except FileNotFoundError:
            raise DamagedData(
                f"{printable(entry.path)} vanished from the temporary folder", hint="fetch again"
            ) from None
        try:
            found = os.fstat(fd)
            if not is_private_file(found):
                raise replaced(entry.path)
            if found.st_size != size:
                os.ftruncate(fd, size)
            if stat.S_IMODE(found.st_mode) != self._mode(entry) | 0o600:
                chmod_file(fd, self._mode(entry) | 0o600)
            here.touch(node.name, entry.mtime, fd)
            if self._few:
                sync_file(fd)
        finally:
            os.close(fd)

    def _is_settled(self, found: os.stat_result | None, entry: Entry, size: int) -> bool:
        """As it shall be published: of a hundred thousand small files that came whole, none has to be opened again."""
        return (
            found is not None
            and is_private_file(found)
            and found.st_size == size
            and stat.S_IMODE(found.st_mode) == self._mode(entry) | 0o600
            and found.st_mtime_ns == entry.mtime
        )

    def _settle_folders(self, node: Node, here: Folder) -> None:
        """Links, then times, from the bottom up: each of them changes the time of the folder it is in."""
        for child in node.of(EntryKind.DIRECTORY):
            with here.folder(child.name) as below:
                self._settle_folders(child, below)
                if child.number is None:
                    below.chmod(0o777 & ~self._umask | 0o700)
                else:
                    below.chmod(self._mode(self._entry(child)) | 0o700)
                    here.touch(child.name, self._entry(child).mtime)
                if self._few:
                    below.sync()
        for child in list(node.of(EntryKind.LINK)):
            self._settle_link(child, here)

    def _settle_link(self, node: Node, here: Folder) -> None:
        if here.look(node.name) is not None:
            here.remove(node.name)  # an interrupted run made it
        try:
            here.make_link(node.name, self._places[node.number or 0].target)
        except OSError as error:
            if getattr(error, "winerror", None) != _NO_SYMLINK_RIGHT:
                raise
            self.notices.append(
                f"{printable(self._entry(node).path)} is left out: this user may not make links"
            )
            return
        here.touch(node.name, self._entry(node).mtime)

    # -- plan

    def _plan(self, staged: Folder | None, done: Sequence[Move]) -> list[Move]:
        """done: what is published already."""
        if self._rename:
            merged = {move.staged[:depth] for move in done for depth in range(1, len(move.staged))}
            self._finals.choose_free(self._base, staged, merged)
        return plan(self._root, self._base, staged, self._finals.chosen, overwrite=self._overwrite)

    def _already_published(self, moves: Sequence[Move]) -> list[Move]:
        """Those of an earlier run or round that happened. Raises DamagedData if what they published is gone."""
        done = []
        for move in moves:
            with self._staging.tree.descend(move.staged[:-1]) as folder:
                if folder.look(move.staged[-1]) is not None:
                    continue
            try:
                with self._base.descend(move.final[:-1]) as folder:
                    found = folder.look(move.final[-1])
            except FileNotFoundError:
                found = None
            if found is None or found.st_ino != move.inode:
                raise DamagedData(
                    f"{shown(move.final)} was in place already and is gone since",
                    hint="fetch again into an empty folder",
                )
            done.append(move)
        return done

    # -- carry out

    def _carry_out(self, moves: Sequence[Move], everything: list[Move]) -> bool:
        """False if what is left has to be planned anew: somebody made a folder that we share."""
        sources: Handles[tuple[str, ...], Folder] = Handles(FEW)
        targets: Handles[tuple[str, ...], Folder] = Handles(FEW)
        parents = {move.final[:-1] for move in everything}
        try:
            for move in moves:
                above, below = move.staged[:-1], move.final[:-1]
                with (
                    sources.use(above, partial(self._staging.tree.descend, above)) as source,
                    targets.use(below, partial(self._base.descend, below)) as target,
                ):
                    if not self._carry(move, source, target, everything):
                        return False
            if len(parents) > FEW:
                self._base.sync_everything()
            else:
                for parts in parents:
                    with self._base.descend(parts) as folder:
                        folder.sync()
            return True
        finally:
            sources.close()
            targets.close()

    def _carry(self, move: Move, source: Folder, target: Folder, everything: list[Move]) -> bool:
        """False if it is a folder to share by now, and what it holds must be moved piece by piece."""
        name, new = move.staged[-1], move.final[-1]
        node = self._root.at(move.staged)
        while True:
            try:
                source.move(name, target, new)
                return True
            except FileExistsError:
                found = target.look(new)
            if found is None:
                continue  # gone again
            if found.st_ino == move.inode:
                source.remove(name)  # both names of one file: an interruption between link and unlink
                return True
            is_folder = stat.S_ISDIR(found.st_mode)
            if is_folder and node.shared:
                return False
            if self._overwrite and not is_folder and node.kind is not EntryKind.DIRECTORY:
                source.replace(name, target, new)
                return True
            if not self._rename or not self._renamable(move.staged):
                raise already_there([shown(move.final)], overwrite=self._overwrite)
            new = self._finals.choose_another(move.staged, target)
            everything[everything.index(move)] = move = move._replace(final=(*move.final[:-1], new))
            self._staging.write_journal(Journal(everything, self._finals.chosen))

    def _renamable(self, place: Parts) -> bool:
        """What lies in a folder of the transfer has its name there, and the folder is what is renamed."""
        return all(self._root.at(place[:depth]).shared for depth in range(1, len(place)))

    def _apply_late_modes(self, moves: Sequence[Move]) -> None:
        """Files, then folders from the bottom up. A folder that was here before keeps its mode."""
        final_of = {move.staged: move.final for move in moves}
        files: list[tuple[tuple[str, ...], int]] = []
        folders: list[tuple[tuple[str, ...], int]] = []
        for entry, place in zip(self._entries, self._places, strict=True):
            mode = self._mode(entry)
            if (
                entry.kind is EntryKind.LINK
                or mode | (0o600 if entry.kind is EntryKind.FILE else 0o700) == mode
            ):
                continue
            final = _carried(place.parts, final_of)
            if final is not None:
                (files if entry.kind is EntryKind.FILE else folders).append((final, mode))
        folders.sort(key=lambda found: -len(found[0]))
        for final, mode in files:
            try:
                with self._base.descend(final[:-1]) as folder:
                    fd = folder.open(final[-1], os.O_RDONLY)
            except PermissionError:
                continue  # an interrupted run set it: nothing else locks us out of what we made
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise replaced(os.fsencode(final[-1]))
                chmod_file(fd, mode)
            finally:
                os.close(fd)
        for final, mode in folders:
            try:
                with self._base.descend(final) as folder:
                    folder.chmod(mode)
            except PermissionError:
                continue
        if files or folders:
            self._base.sync_everything()

    # -- small facts

    def _entry(self, node: Node) -> Entry:
        return self._entries[node.number or 0]

    def _mode(self, entry: Entry) -> int:
        """Permission bits under the umask; never setuid, setgid or sticky."""
        return entry.mode & 0o777 & ~self._umask


def is_private_file(found: os.stat_result) -> bool:
    """A regular file with no other name: what we make in the staging folder, and nothing put in its place."""
    return stat.S_ISREG(found.st_mode) and found.st_nlink <= 1


def replaced(path: bytes) -> UnsafeName:
    return UnsafeName(
        f"{printable(path)} was replaced by something else while it was written",
        hint="find out what else writes to this folder, then fetch again",
    )


def _carried(
    parts: tuple[str, ...], final_of: Mapping[tuple[str, ...], tuple[str, ...]]
) -> tuple[str, ...] | None:
    """Where an entry is now: below the move that took it or a folder above it. None if none did."""
    for length in range(1, len(parts) + 1):
        final = final_of.get(parts[:length])
        if final is not None:
            return final + parts[length:]
    return None
