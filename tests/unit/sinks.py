"""What the tests of sinks share: entries with their bytes, a fetch of them, and places to fetch to."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from transfer.chunks import Extent, Manifest, make_manifest
from transfer.codec import Room
from transfer.folder import Folder
from transfer.folder_sink import FolderSink
from transfer.handles import DIRECT
from transfer.merge import Node, plan
from transfer.model import Entry, EntryKind
from transfer.paths import STAGING_PREFIX
from transfer.staging import Move

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX modes and descriptors of folders")
WHEN = 1_600_000_000_123_456_789
JOB = "JOB0123456789"


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


class Content:
    """A transfer made by hand: entries and the bytes of its files."""

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.entries: list[Entry] = []
        self.data: dict[int, bytes] = {}
        for name, raw in (files or {}).items():
            self.file(name, raw)

    def file(self, name: str, raw: bytes, mode: int = 0o644) -> Content:
        self.data[len(self.entries)] = raw
        self.entries.append(Entry(os.fsencode(name), EntryKind.FILE, len(raw), mode, WHEN))
        return self

    def folder(self, name: str, mode: int = 0o755) -> Content:
        self.entries.append(Entry(os.fsencode(name), EntryKind.DIRECTORY, 0, mode, WHEN))
        return self

    def link(self, name: str, target: str) -> Content:
        self.entries.append(Entry(os.fsencode(name), EntryKind.LINK, 0, 0o777, WHEN, os.fsencode(target)))
        return self

    @property
    def manifest(self) -> Manifest:
        return make_manifest(self.entries)

    def chunk(self, extents: list[Extent]) -> bytes:
        return b"".join(self.data[e.entry][e.start : e.start + e.length] for e in extents)

    def write_to(self, sink: FolderSink) -> None:
        manifest = self.manifest
        for index in range(manifest.chunks or 0):
            extents = manifest.extents(index)
            sink.write(extents, self.chunk(extents))

    def read_back(self, sink: FolderSink) -> list[bool]:
        """For each chunk, whether the sink has it."""
        manifest = self.manifest
        chunks = [manifest.extents(index) for index in range(manifest.chunks or 0)]
        return [sink.read(extents) == self.chunk(extents) for extents in chunks]


def fetch(
    content: Content, output: Path | str, *, overwrite: bool = False, rename: bool = False
) -> list[Path]:
    """All of it at once, as a fetch without troubles does."""
    sink = FolderSink(output, job=JOB, overwrite=overwrite, rename=rename)
    sink.begin(content.manifest)
    content.write_to(sink)
    paths = sink.publish()
    sink.close()
    return paths


def started(content: Content, output: Path | str, **options: bool) -> FolderSink:
    sink = FolderSink(output, job=JOB, **options)
    sink.begin(content.manifest)
    return sink


def taken_up(state: bytes, content: Content, output: Path | str, **options: bool) -> FolderSink:
    sink = FolderSink.resume(state, output, job=JOB, **options)
    assert sink is not None
    sink.begin(content.manifest)
    return sink


def staging_in(path: Path) -> list[str]:
    return [name for name in os.listdir(path) if name.startswith(STAGING_PREFIX)]


def files_in(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    path = tmp_path / "out"
    path.mkdir()
    return path


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A folder outside, which must be the same after the test as before."""
    path = tmp_path / "canary"
    (path / "sub").mkdir(parents=True)
    (path / "f").write_bytes(b"untouched")
    before = sorted(str(p) for p in path.rglob("*"))
    yield path
    assert sorted(str(p) for p in path.rglob("*")) == before
    assert (path / "f").read_bytes() == b"untouched"


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder of somebody who is not root, while we are that somebody: root may do everything."""
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        if os.name == "nt" or os.geteuid():
            yield here
            return
        os.chown(here, 65534, 65534)
        os.setegid(65534)
        os.seteuid(65534)
        try:
            yield here
        finally:
            os.seteuid(0)
            os.setegid(0)


def tree() -> Content:
    return (
        Content()
        .folder("t")
        .file("t/a", b"aaa")
        .folder("t/empty")
        .folder("t/sub")
        .file("t/sub/b", bytes(range(256)) * 8000)
        .file("t/sub/nothing", b"")
        .link("t/sub/l", "../a")
    )


def _plan_without_looking(
    root: Node, base: Folder, staged: Folder | None, finals: Mapping[str, str], *, overwrite: bool
) -> list[Move]:
    """As if what is there came between the look and the rename; folders called `m` came long before."""
    real_look = Folder.look

    def look(self: Folder, name: str) -> os.stat_result | None:
        below_staging = staged is not None and self.path.startswith(staged.path)
        return real_look(self, name) if below_staging or name == "m" else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Folder, "look", look)
        return plan(root, base, staged, finals, overwrite=overwrite)


# past the page cache

BLOCK = DIRECT
O_DIRECT = getattr(os, "O_DIRECT", 0)


def as_decoded(raw: bytes) -> memoryview:
    """In memory that begins where a page does."""
    view = Room(len(raw)).raw(len(raw))
    view[:] = raw
    return view


def write_decoded(content: Content, sink: FolderSink, order: list[int]) -> None:
    for index in order:
        extents = content.manifest.extents(index)
        sink.write(extents, as_decoded(content.chunk(extents)))


# kill and resume


def killed_after(count: int, real: object) -> object:
    """The same function, which ends the process, so to speak, at its next call after `count` good ones."""
    assert callable(real)
    done = iter(range(count))

    def call(*arguments: object, **named: object) -> object:
        if next(done, None) is None:
            raise Killed
        return real(*arguments, **named)

    return call


def publish_killed(sink: FolderSink, count: int, owner: object = Folder, name: str = "move") -> None:
    """`sink.publish`, killed at its next call of `owner.name` after `count` good ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, killed_after(count, getattr(owner, name)))
        with pytest.raises(Killed):
            sink.publish()


def _no_link(*_: object, **__: object) -> None:
    raise PermissionError(errno.EPERM, "no hard links here")
