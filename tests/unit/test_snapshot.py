"""What changed since is named, by the first file that explains it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from transfer.model import Entry, EntryKind
from transfer.scan import scan
from transfer.snapshot import difference, pack
from transfer.source import Facts, Tree


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    for name in ("b", "inner/c", "z"):
        (folder / name).write_bytes(b"as it was")
    return folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: (f / "z").write_bytes(b"longer than it was"), "folder/z has changed"),
        (lambda f: (f / "z").touch(), "folder/z has changed"),
        (lambda f: (f / "inner" / "new").touch(), "folder/inner/new is new"),
        (lambda f: (f / "inner" / "below").mkdir(), "the folder folder/inner/below is new"),
        (lambda f: (f / "inner" / "c").unlink(), "folder/inner/c is gone"),
        (lambda f: ((f / "z").unlink(), (f / "b").touch()), "folder/b has changed"),
        (lambda f: ((f / "z").unlink(), (f / "z").mkdir()), "folder/z has changed"),
        (lambda f: (f / "inner").chmod(0o700), "the folder folder/inner has changed"),
        (lambda f: (f / "a\u202eb").touch(), r"folder/a\u202eb is new"),
    ],
)
def test_the_first_file_that_explains_it_is_named(
    folder: Path, change: Callable[[Path], object], said: str
) -> None:
    before = pack(scan([folder]))
    change(folder)
    assert difference(before, scan([folder])) == said


def test_what_is_the_same_has_no_difference_to_name(folder: Path) -> None:
    assert difference(pack(scan([folder])), scan([folder])) == "what is to be sent has changed"


def test_a_hundred_thousand_files_stay_small() -> None:
    chance = random.Random(1)
    tree, now = Tree(), 1_790_000_000_000_000_000
    for number in range(100_000):
        size, mtime = chance.getrandbits(20), now - chance.getrandbits(50)
        path = b"photos/%03d/image_%010x.jpg" % (number // 1000, chance.getrandbits(40))
        ctime = now + number * 1_300_000 + chance.getrandbits(19)
        entry = Entry(path, EntryKind.FILE, size, 0o644, mtime)
        tree.add(entry, "", Facts(size, mtime, ctime, (1 << 63) + number, 64769))
    packed = pack(tree)
    assert len(packed) < 2_700_000
    assert difference(packed, tree) == "what is to be sent has changed"
