"""Scanning and reading what is sent: order, kinds, exclusions, and every way a file can change meanwhile."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from transfer.chunks import Extent, make_manifest
from transfer.errors import MissingPath, SourceChanged, SourceTrouble, UsageError
from transfer.model import EntryKind
from transfer.scan import scan
from transfer.source import Tree

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX modes and special files")


@pytest.fixture
def top(tmp_path: Path) -> Path:
    root = tmp_path / "top"
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "b.txt").write_bytes(b"bee")
    (root / "a.txt").write_bytes(b"")
    (root / "sub" / "deep" / "c.log").write_bytes(b"sea")
    (root / "sub" / "to-b").symlink_to("../b.txt")
    return root


def names(tree: Tree) -> list[str]:
    return [os.fsdecode(entry.path) for entry in tree.entries]


def read(tree: Tree, extents: list[Extent]) -> bytes:
    buffer = bytearray(sum(extent.length for extent in extents))
    tree.read_into(extents, memoryview(buffer))
    return bytes(buffer)


def whole(tree: Tree, name: str) -> bytes:
    number = names(tree).index(name)
    return read(tree, [Extent(number, 0, tree.entries[number].size or 0)])


def test_a_folder_comes_with_everything_in_it_in_byte_order_folders_first(top: Path) -> None:
    assert names(scan([top])) == [
        "top",
        "top/a.txt",
        "top/b.txt",
        "top/empty",
        "top/sub",
        "top/sub/deep",
        "top/sub/deep/c.log",
        "top/sub/to-b",
    ]


def test_entries_carry_kind_size_mode_mtime_and_target(top: Path) -> None:
    os.chmod(top / "b.txt", 0o640)
    os.utime(top / "b.txt", ns=(5, 1_234_567_890_123_456_789))
    tree = scan([top])
    by_name = dict(zip(names(tree), tree.entries, strict=True))
    bee, link, empty = by_name["top/b.txt"], by_name["top/sub/to-b"], by_name["top/empty"]
    assert (bee.kind, bee.size, bee.mtime) == (EntryKind.FILE, 3, 1_234_567_890_123_456_789)
    assert (link.kind, link.size, link.target) == (EntryKind.LINK, 0, b"../b.txt")
    assert (empty.kind, empty.size) == (EntryKind.DIRECTORY, 0)
    if os.name != "nt":
        assert bee.mode == 0o640
    make_manifest(tree.entries)


@posix
def test_setuid_setgid_and_sticky_are_not_sent(top: Path) -> None:
    os.chmod(top / "b.txt", 0o6755)
    os.chmod(top / "empty", 0o1777)
    modes = {os.fsdecode(e.path): e.mode for e in scan([top]).entries}
    assert (modes["top/b.txt"], modes["top/empty"]) == (0o755, 0o777)


def test_a_file_is_sent_under_its_own_name_and_a_dot_under_its_folders(
    top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert names(scan([top / "sub" / "deep" / "c.log"])) == ["c.log"]
    monkeypatch.chdir(top / "sub" / "deep")
    assert names(scan([Path()])) == ["deep", "deep/c.log"]
    assert names(scan([Path("..")]))[0] == "sub"
    assert names(scan([Path(f"{top / 'empty'}/")])) == ["empty"]


def test_the_order_of_arguments_does_not_matter(top: Path) -> None:
    one, other = top / "a.txt", top / "empty"
    assert scan([one, other]).entries == scan([other, one]).entries
    assert scan([one, other]).identity() == scan([other, one]).identity()


def test_two_paths_of_one_name_are_refused(top: Path, tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes(b"other")
    with pytest.raises(UsageError):
        scan([top / "b.txt", tmp_path / "b.txt"])


def test_a_path_that_is_not_there_is_missing(top: Path) -> None:
    (top / "broken").symlink_to("nowhere")
    for path in (top / "nothing", top / "b.txt" / "below", top / "broken"):
        with pytest.raises(MissingPath) as missing:
            scan([path])
        assert missing.value.exit_code == 2


def test_the_root_of_the_file_system_and_our_own_staging_names_cannot_be_sent(tmp_path: Path) -> None:
    (tmp_path / ".xfer-abc").mkdir()
    for path in (Path("/"), tmp_path / ".xfer-abc"):
        with pytest.raises(UsageError):
            scan([path])


@posix
def test_a_name_that_is_not_utf8_is_sent_byte_for_byte(tmp_path: Path) -> None:
    raw = os.path.join(os.fsencode(tmp_path), b"caf\xe9")
    with open(raw, "wb") as file:
        file.write(b"x")
    tree = scan([Path(os.fsdecode(raw))])
    assert tree.entries[0].path == b"caf\xe9"
    assert read(tree, [Extent(0, 0, 1)]) == b"x"


@posix
def test_pipes_sockets_and_devices_are_left_out_with_a_notice(
    top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(top)  # a socket's path must be short
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("sock")
        tree = scan([top])
    assert "top/pipe" not in names(tree)
    assert "top/sock" not in names(tree)
    assert sorted(tree.notices) == [
        "top/pipe is a named pipe and is left out",
        "top/sock is a socket and is left out",
    ]
    (top / "pipe").rename(top / "a pipe")
    with pytest.raises(UsageError) as refused:
        scan([Path("a pipe")])
    assert refused.value.what == "a pipe is a named pipe, not a file or folder"
    assert "`xfer send - --name 'a pipe' < 'a pipe'`" in refused.value.next_step


@posix
def test_hard_links_become_copies_and_are_said_once(top: Path) -> None:
    os.link(top / "b.txt", top / "b2.txt")
    os.link(top / "b.txt", top / "sub" / "b3.txt")
    tree = scan([top])
    assert whole(tree, "top/b2.txt") == whole(tree, "top/sub/b3.txt") == b"bee"
    assert tree.notices == ["2 hard links are sent as copies: top/b2.txt, …"]
    (top / "b2.txt").unlink()
    assert scan([top]).notices == ["1 hard link is sent as a copy: top/sub/b3.txt"]


def test_links_can_be_skipped(top: Path) -> None:
    tree = scan([top], links="skip")
    assert "top/sub/to-b" not in names(tree)
    assert tree.notices == ["1 link is left out"]


def test_links_can_be_followed_and_loops_end(top: Path) -> None:
    (top / "sub" / "up").symlink_to("..")
    (top / "again").symlink_to("sub/deep")
    (top / "broken").symlink_to("nowhere")
    tree = scan([top], links="follow")
    assert whole(tree, "top/sub/to-b") == b"bee"
    assert whole(tree, "top/again/c.log") == b"sea"
    assert not any(e.kind is EntryKind.LINK for e in tree.entries)
    assert tree.notices == ["top/sub/up leads back to a folder above it and is left out"]
    assert [name for name, _ in tree.unreadable] == ["top/broken"]


def test_a_link_to_nowhere_named_as_an_argument_is_told_from_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "dang").symlink_to("gone")
    with pytest.raises(MissingPath, match=r"dang is a link to nowhere$"):
        scan([tmp_path / "dang"])
    with pytest.raises(MissingPath, match=r"gone is not there$"):
        scan([tmp_path / "gone"])


def test_a_link_named_as_an_argument_is_followed_under_its_own_name(top: Path, tmp_path: Path) -> None:
    (tmp_path / "folder-link").symlink_to(top)
    (tmp_path / "file-link").symlink_to(top / "b.txt")
    tree = scan([tmp_path / "folder-link", tmp_path / "file-link"])
    assert names(tree)[:2] == ["file-link", "folder-link"]
    assert whole(tree, "file-link") == b"bee"


@pytest.mark.parametrize(
    ("patterns", "gone"),
    [
        (["*.log"], {"top/sub/deep/c.log"}),
        (["/sub"], {"top/sub", "top/sub/deep", "top/sub/deep/c.log", "top/sub/to-b"}),
        (["deep/"], {"top/sub/deep", "top/sub/deep/c.log"}),
        (["/deep"], set()),
        (["b.txt/"], set()),
        (["sub/**", "!sub/deep"], {"top/sub/deep/c.log", "top/sub/to-b"}),
        (["*.txt", "!a.txt"], {"top/b.txt"}),
        (["# comment", ""], set()),
    ],
)
def test_exclusions_are_those_of_a_gitignore_in_the_folder(
    top: Path, patterns: list[str], gone: set[str]
) -> None:
    everything = set(names(scan([top])))
    assert everything - set(names(scan([top], exclude=patterns))) == gone


def test_a_star_leaves_out_the_content_but_not_the_folder_named(top: Path) -> None:
    assert names(scan([top], exclude=["*"])) == ["top"]
    assert names(scan([top, top / "a.txt"], exclude=["top"])) == ["a.txt"]
    assert names(scan([top / "a.txt", top / "b.txt"], exclude=["a*"])) == ["b.txt"]


def test_a_pattern_that_is_none_is_refused(top: Path) -> None:
    with pytest.raises(UsageError):
        scan([top], exclude=["!"])


@posix
def test_what_may_not_be_read_is_collected_and_the_rest_is_sent(unprivileged: Path) -> None:
    root = unprivileged / "r"
    (root / "locked").mkdir(parents=True)
    (root / "locked" / "x").write_bytes(b"x")
    (root / "secret").write_bytes(b"x")
    (root / "open").write_bytes(b"x")
    os.chmod(root / "secret", 0)
    os.chmod(root / "locked", 0)
    try:
        tree = scan([root])
    finally:
        os.chmod(root / "locked", 0o700)
    assert names(tree) == ["r", "r/open"]
    assert tree.unreadable == [("r/locked", "permission denied"), ("r/secret", "permission denied")]


@posix
def test_a_file_locked_after_the_scan_is_trouble_not_a_change(unprivileged: Path) -> None:
    path = unprivileged / "f"
    path.write_bytes(b"abc")
    tree = scan([path])
    os.chmod(path, 0)
    with pytest.raises(SourceTrouble) as trouble:
        whole(tree, "f")
    assert not isinstance(trouble.value, SourceChanged)
    os.chmod(unprivileged, 0)
    try:
        with pytest.raises(SourceTrouble) as trouble:
            whole(tree, "f")
    finally:
        os.chmod(unprivileged, 0o700)
    assert not isinstance(trouble.value, SourceChanged)


@posix
def test_a_link_put_in_a_files_place_is_not_even_opened(top: Path) -> None:
    tree = scan([top / "b.txt"])
    _swap_for_a_link(top / "b.txt")
    with pytest.raises(SourceChanged, match="was replaced"):
        whole(tree, "b.txt")


def test_extents_are_read_end_to_end(top: Path) -> None:
    tree = scan([top])
    bee, sea = names(tree).index("top/b.txt"), names(tree).index("top/sub/deep/c.log")
    assert read(tree, [Extent(bee, 1, 2), Extent(sea, 0, 3), Extent(sea, 1, 1)]) == b"eeseae"
    tree.close()


def test_many_threads_read_many_files_with_few_descriptors(tmp_path: Path) -> None:
    root = tmp_path / "many"
    root.mkdir()
    for number in range(200):
        (root / f"{number:03}").write_bytes(bytes([number]) * 100)
    tree = scan([root])

    def right(job: int) -> bool:
        number = 1 + job % 200
        return read(tree, [Extent(number, 10, 50)]) == bytes([number - 1]) * 50

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(right, range(1000)))
    if os.path.isdir("/proc/self/fd"):
        held = [fd for fd in os.listdir("/proc/self/fd") if _leads_into(fd, root)]
        assert 0 < len(held) <= 64
    tree.close()
    if os.path.isdir("/proc/self/fd"):
        assert not [fd for fd in os.listdir("/proc/self/fd") if _leads_into(fd, root)]


def _leads_into(fd: str, root: Path) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith(str(root))
    except OSError:
        return False


def _rewrite(path: Path) -> None:
    found = path.stat()
    path.write_bytes(b"B" * found.st_size)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))  # size, mtime and inode are as before


def _replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.replace(other, path)


def _grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _shrink(path: Path) -> None:
    os.truncate(path, 1)


def _swap_for_a_link(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


def _swap_for_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@posix
@pytest.mark.parametrize("read_before", [False, True], ids=["not open", "open"])
@pytest.mark.parametrize(
    "change", [_rewrite, _replace, _grow, _shrink, Path.unlink, _swap_for_a_link, _swap_for_a_pipe]
)
def test_a_file_that_changes_after_the_scan_is_noticed(top: Path, change: object, read_before: bool) -> None:
    path = top / "b.txt"
    tree = scan([path])
    if read_before:
        read(tree, [Extent(0, 0, 2)])  # a part of it: it stays open
    assert callable(change)
    change(path)
    with pytest.raises(SourceChanged) as changed:
        read(tree, [Extent(0, 0, 2)])
    assert "b.txt" in changed.value.what
    assert changed.value.exit_code == 6


@posix
def test_a_change_during_the_read_is_noticed_after_it(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = top / "b.txt"
    tree = scan([path])
    real = os.preadv

    def read_then_change(fd: int, buffers: list[memoryview], offset: int) -> int:
        got = real(fd, buffers, offset)
        _rewrite(path)
        return got

    monkeypatch.setattr(os, "preadv", read_then_change)
    with pytest.raises(SourceChanged):
        whole(tree, "b.txt")


def test_identity_is_the_same_until_something_changes(top: Path) -> None:
    before = scan([top]).identity()
    assert len(before) == 32
    assert scan([top]).identity() == before
    (top / "sub" / "deep" / "c.log").write_bytes(b"SEA")
    after = scan([top]).identity()
    assert after != before
    (top / "new").write_bytes(b"")
    assert scan([top]).identity() != after


def test_a_tree_too_deep_for_any_receiver_is_reported_not_sent(tmp_path: Path) -> None:
    path = tmp_path / "d"
    path.mkdir()
    deep = path.joinpath(*["d"] * 140)
    deep.mkdir(parents=True)
    (deep / "f").write_bytes(b"x")
    tree = scan([path])
    assert len(tree.entries) == 127
    assert [reason for _, reason in tree.unreadable] == ["it is nested too deeply"]


def test_nothing_in_use_is_closed_under_a_reader() -> None:
    """A Tree is read while another thread closes it."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "f"
        path.write_bytes(b"x" * 10_000)
        tree = scan([path])
        stop = threading.Event()

        def close_again_and_again() -> None:
            while not stop.is_set():
                tree.close()

        closer = threading.Thread(target=close_again_and_again)
        closer.start()
        try:
            for at in range(2000):
                assert read(tree, [Extent(0, at, 100)]) == b"x" * 100
        finally:
            stop.set()
            closer.join()


def test_it_works_where_the_system_has_no_positional_reads(top: Path) -> None:
    """As on Windows, where os has neither pread nor preadv."""
    code = (
        "import os, sys\n"
        "for name in ('pread', 'preadv', 'pwrite', 'SEEK_DATA'):\n"
        "    delattr(os, name) if hasattr(os, name) else None\n"
        "from pathlib import Path\n"
        "from transfer.chunks import Extent\n"
        "from transfer.scan import scan\n"
        "tree = scan([Path(sys.argv[1])])\n"
        "buffer = bytearray(5)\n"
        "tree.read_into([Extent(0, 1, 2), Extent(0, 0, 3)], memoryview(buffer))\n"
        "sys.stdout.buffer.write(buffer)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(top / "b.txt")],
        capture_output=True,
        check=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert ran.stdout == b"eebee"
