"""Deleting a file, or moving it away, if it is still the one that was sent. Nothing is ever overwritten.

Between the last look at a file and its unlink lies an instant in which another program may replace it; a rename is looked
at again afterwards, and taken back.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from blake3 import blake3

from transfer.batch.examine import examine
from transfer.errors import SourceChanged
from transfer.folder import Folder, chmod_file, sync_file
from transfer.paths import STAGING_PREFIX, printable
from transfer.source import OPEN_FLAGS, Facts, facts_of

BLOCK = 1 << 20
Examine = Callable[[str], tuple[Facts, bytes]]
"""`transfer.batch.examine.examine`, or the same with an end that somebody else sets."""


def same_file(found: Facts, sent: Facts) -> bool:
    """But for its ctime, which a rename or a change of mode moves on."""
    return found._replace(ctime=0) == sent._replace(ctime=0)


def still(
    path: str, sent: Facts, digest: bytes, *, renamed: bool = False, examine: Examine = examine
) -> Facts | None:
    """What the file looks like now, if it is what was sent: by its facts or, where those differ, its content.

    renamed: its removal was begun, so another inode is another file, whatever it holds. None: it is another one now.

    Raises:
        FileNotFoundError: there is none.
        OSError, SourceChanged, SourceTrouble: that cannot be told.
    """
    found = os.lstat(path)
    facts = facts_of(found)
    if not stat.S_ISREG(found.st_mode):
        return None
    if facts == sent or (renamed and same_file(facts, sent)):
        return facts
    if facts.size != sent.size or (renamed and facts.inode != sent.inode):
        return None
    facts, now = examine(path)
    return facts if now == digest else None


def delete(path: str, facts: Facts) -> None:
    """Raises SourceChanged if it is not as it looked; OSError."""
    folder, name = os.path.split(path)
    with Folder.at(Path(folder)) as here:
        _unlink(here, name, facts)


def move(
    path: str,
    facts: Facts,
    digest: bytes,
    to: str,
    name: bytes,
    chosen: Callable[[str], None],
    checkpoint: Callable[[], None] = lambda: None,
) -> str:
    """To its name below the folder `to`, made if need be, or to that with a number; returns where it is now.

    Across file systems it is copied, checked by its digest, synced and named before the original goes.

    Args:
        chosen: told where it goes to, before anything stands there.
        checkpoint: called between blocks of a copy; whoever wants this to stop has it raise.
    Raises:
        SourceChanged: it is not as it looked, and was left, or put back, where it was.
        OSError.
    """
    folder, own = os.path.split(path)
    *above, last = os.fsdecode(name).split("/")
    target = Path(to, *above)
    target.mkdir(parents=True, exist_ok=True)
    with Folder.at(Path(folder)) as here, Folder.at(target) as there:
        for candidate in numbered(last):
            if there.look(candidate) is not None:
                continue
            where = os.path.join(there.path, candidate)
            chosen(where)
            try:
                _carry(here, own, facts, digest, there, candidate, checkpoint)
            except FileExistsError:
                continue
            return where
    raise AssertionError("numbers do not end")


def finish(path: str, facts: Facts, digest: bytes, target: str, examine: Examine = examine) -> bool:
    """End a move that was cut off: the original goes if its copy is complete. False: there is no such copy.

    Raises SourceChanged, OSError.
    """
    try:
        found = os.lstat(target)
        if not stat.S_ISREG(found.st_mode) or found.st_size != facts.size or examine(target)[1] != digest:
            return False
    except (FileNotFoundError, NotADirectoryError):
        return False
    if not os.path.samestat(found, os.lstat(path)):
        delete(path, facts)
        return True
    os.unlink(path)  # two names of one file: it was about to be renamed in two steps
    return True


def numbered(name: str) -> Iterator[str]:
    """The name itself, then `name (1).ext` and so on."""
    yield name
    stem, extension = os.path.splitext(name)
    number = 0
    while True:
        number += 1
        yield f"{stem} ({number}){extension}"


def _carry(
    here: Folder,
    own: str,
    facts: Facts,
    digest: bytes,
    there: Folder,
    name: str,
    checkpoint: Callable[[], None],
) -> None:
    try:
        here.move(own, there, name)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy(here, own, digest, there, name, checkpoint)
        there.sync()
        _unlink(here, own, facts)
        here.sync()
        return
    found = there.look(name)
    if found is None or not same_file(facts_of(found), facts):
        there.move(name, here, own)
        raise _changed(here, own)
    there.sync()
    here.sync()


def _copy(
    here: Folder, own: str, digest: bytes, there: Folder, name: str, checkpoint: Callable[[], None]
) -> None:
    """Under a hidden name first, always the same one for this name: what a killed run left is written over."""
    hidden = f"{STAGING_PREFIX}moved-{blake3(os.fsencode(name)).hexdigest()[:16]}"
    source = here.open(own, OPEN_FLAGS)
    try:
        copy = there.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            hasher = blake3()
            while block := os.read(source, BLOCK):
                checkpoint()
                hasher.update(block)
                rest = memoryview(block)
                while rest:
                    rest = rest[os.write(copy, rest) :]
            found = os.fstat(source)
            if hasher.digest() != digest:
                raise _changed(here, own)
            chmod_file(copy, stat.S_IMODE(found.st_mode))
            there.touch(hidden, found.st_mtime_ns, copy)
            sync_file(copy)
        finally:
            os.close(copy)
        there.move(hidden, there, name)
    except BaseException:
        if there.look(hidden) is not None:
            there.remove(hidden)
        raise
    finally:
        os.close(source)


def _unlink(folder: Folder, name: str, facts: Facts) -> None:
    found = folder.look(name)
    if found is None or facts_of(found) != facts:
        raise _changed(folder, name)
    folder.remove(name)


def _changed(folder: Folder, name: str) -> SourceChanged:
    return SourceChanged(f"{printable(os.path.join(folder.path, name))} changed just now and stays")
