"""What becomes of files on their way: links, holes, modes, names, and where they are put."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest
from helpers import MIB, SOON, Background, Two, complaint

from transfer import events

UMASK = ("sh", "-c", 'umask $0; exec "$@"')
"""Followed by a mask: a command that runs under it."""


def notices(process: Background) -> list[str]:
    return [event.text for event in process.events if isinstance(event, events.Notice)]


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def linked(two: Two) -> Path:
    """A folder with links of every sort, one of them out of it."""
    folder = two.tmp / "linked"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "file").write_bytes(b"content")
    (two.tmp / "outside").write_bytes(b"outside")
    (folder / "to a file").symlink_to("below/file")
    (folder / "to a folder").symlink_to("below")
    (folder / "back up").symlink_to(folder)
    (folder / "out").symlink_to("../outside")
    return folder


# --- what is sent


def test_exclude_leaves_out_as_gitignore_does(two: Two) -> None:
    root = two.tmp / "project"
    for path in ("a.o", "src/b.o", "src/keep.o", "src/c.c", "build/x", "src/build", "docs/d.md"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    ticket = two.store(root, "--exclude", "*.o", "--exclude", "!keep.o", "--exclude", "build/")
    assert two.fetch(ticket).code == 0
    found = sorted(str(p.relative_to(two.out)) for p in two.out.rglob("*") if p.is_file())
    assert found == ["project/docs/d.md", "project/src/build", "project/src/c.c", "project/src/keep.o"]


def test_excluding_everything_exits_2(two: Two) -> None:
    sent = two.send(two.file("f", 1), "--exclude", "*")
    said = complaint(sent)
    assert (said.code, said.message) == (2, "there is nothing to send: everything was left out")


def test_links_are_kept_as_links(two: Two, linked: Path) -> None:
    (linked / "out").unlink()
    (linked / "back up").unlink()
    assert two.fetch(two.store(linked)).code == 0
    arrived = two.out / "linked"
    assert os.readlink(arrived / "to a file") == "below/file"
    assert os.readlink(arrived / "to a folder") == "below"


def test_links_may_be_left_out(two: Two, linked: Path) -> None:
    sent = two.send(linked, "--links", "skip", "--wait", "0")
    assert sent.code == 0
    assert notices(sent) == ["4 links are left out"]
    assert two.fetch(sent.ticket).code == 0
    assert names(two.out / "linked") == ["below"]


def test_links_may_be_followed_but_not_for_ever(two: Two, linked: Path) -> None:
    sent = two.send(linked, "--links", "follow", "--wait", "0")
    assert sent.code == 0
    assert notices(sent)[:1] == ["linked/back up leads back to a folder above it and is left out"]
    assert two.fetch(sent.ticket).code == 0
    arrived = two.out / "linked"
    assert names(arrived) == ["below", "out", "to a file", "to a folder"]
    assert (arrived / "out").read_bytes() == b"outside"
    assert not (arrived / "to a folder").is_symlink()
    assert (arrived / "to a folder" / "file").read_bytes() == b"content"


def test_a_link_out_of_the_folder_is_refused_unless_trusted(two: Two, linked: Path) -> None:
    ticket = two.store(linked)
    said = complaint(two.fetch(ticket))
    assert (said.code, said.kind) == (6, "UnsafeName")
    assert said.message.startswith("linked/back up is a link to the absolute path ")
    assert "--unsafe-links" in said.next
    assert os.listdir(two.out) == []
    assert two.fetch(ticket, "--unsafe-links").code == 0
    assert os.readlink(two.out / "linked/out") == "../outside"
    assert os.readlink(two.out / "linked/back up") == str(linked)


def test_a_link_that_is_named_is_followed(two: Two) -> None:
    (two.tmp / "alias").symlink_to(two.file("real", 1000))
    assert two.fetch(two.store(two.tmp / "alias")).code == 0
    assert not (two.out / "alias").is_symlink()
    assert (two.out / "alias").read_bytes() == (two.tmp / "real").read_bytes()


def test_further_names_of_a_file_become_copies_and_that_is_said_once(two: Two) -> None:
    root = two.tmp / "root"
    root.mkdir()
    (root / "a").write_bytes(b"shared")
    for name in ("b", "c"):
        os.link(root / "a", root / name)
    sent = two.send(root, "--wait", "0")
    assert sent.code == 0
    assert notices(sent) == ["2 hard links are sent as copies: root/b, …"]
    assert two.fetch(sent.ticket).code == 0
    inodes = {(two.out / "root" / name).stat().st_ino for name in "abc"}
    assert len(inodes) == 3
    assert (two.out / "root/c").read_bytes() == b"shared"


def test_pipes_and_sockets_are_left_out_and_told(two: Two) -> None:
    root = two.tmp / "root"
    root.mkdir()
    os.mkfifo(root / "pipe")
    (root / "file").write_bytes(b"x")
    sent = two.send(root, "--wait", "0")
    assert sent.code == 0
    assert notices(sent) == ["root/pipe is a named pipe and is left out"]
    alone = two.send(root / "pipe")
    assert complaint(alone).code == 2
    assert "is a named pipe, not a file or folder" in complaint(alone).message


@pytest.mark.skipif(sys.platform != "linux", reason="APFS decides for itself where holes are")
@pytest.mark.parametrize("route", ["webrtc", "s3"])
def test_holes_stay_holes(two: Two, route: str) -> None:
    source = two.tmp / "sparse.img"
    with open(source, "wb") as file:
        file.truncate(64 * MIB)
        file.seek(20 * MIB + 5)
        file.write(b"an island")
        file.seek(50 * MIB)
        file.write(os.urandom(MIB))
    sending = two.send(source, "--via", route)
    got = two.fetch(sending.ticket).summary
    arrived = two.out / "sparse.img"
    assert got.wire < 3 * MIB
    assert arrived.stat().st_size == 64 * MIB
    assert arrived.stat().st_blocks * 512 < 4 * MIB
    assert arrived.read_bytes() == source.read_bytes()


# --- modes and times


def test_setuid_setgid_and_sticky_are_never_carried(two: Two) -> None:
    root = two.tmp / "root"
    root.mkdir()
    (root / "tool").write_bytes(b"#!/bin/sh\n")
    (root / "tool").chmod(0o6755)
    root.chmod(0o3755)
    assert two.fetch(two.store(root)).code == 0
    assert mode(two.out / "root/tool") == 0o755
    assert mode(two.out / "root") & 0o7000 == (two.out.stat().st_mode & 0o2000)


def test_the_receivers_umask_is_honoured(two: Two) -> None:
    root = two.tmp / "root"
    root.mkdir()
    for name, bits in (("open", 0o666), ("tool", 0o777), ("closed", 0o600), ("read-only", 0o444)):
        (root / name).write_bytes(b"x")
        (root / name).chmod(bits)
    root.chmod(0o777)
    ticket = two.store(root)
    for mask in ("000", "022", "077"):
        assert two.fetch(ticket, "-o", two.out / mask, prefix=(*UMASK, mask)).code == 0
        arrived = two.out / mask / "root"
        allowed = 0o777 & ~int(mask, 8)
        assert mode(arrived) == allowed
        for path in arrived.iterdir():
            assert mode(path) == mode(root / path.name) & allowed, path


def test_a_stream_arrives_with_a_plain_mode(two: Two) -> None:
    sending = two.stream()
    sending.hang_up()
    assert two.fetch(sending.ticket, prefix=(*UMASK, "022")).code == 0
    assert mode(two.out / "stream") == 0o644


# --- names


def test_names_that_would_fool_a_terminal_are_written_escaped_and_told(two: Two) -> None:
    root = two.tmp / "root"
    root.mkdir()
    for name in ("red\x1b[31m", "line\nbreak", "gnp\u202etxt"):
        (root / name).write_bytes(name.encode())
    sent = two.send(root, "--wait", "0")
    got = two.fetch(sent.ticket).end()
    assert got.code == 0
    assert names(two.out / "root") == ["gnp%E2%80%AEtxt", "line%0Abreak", "red%1B[31m"]
    assert (two.out / "root/red%1B[31m").read_bytes() == b"red\x1b[31m"
    assert (
        "root/red\\x1b[31m is written as root/red%1B[31m, because its name holds control characters"
        in notices(got)
    )
    told = two.start("fetch", sent.ticket, "-o", two.out / "again", env=two.there).end(SOON).stderr
    assert "\x1b" not in told
    assert "\u202e" not in told


# --- where it is put


def test_o_names_the_file_unless_it_ends_in_a_slash_or_is_a_folder(two: Two) -> None:
    source = two.file("f", 1000)
    ticket = two.store(source)
    (two.out / "there").mkdir()
    for where in ("as named", "made/", "there", "there/"):
        (two.out / "there" / "f").unlink(missing_ok=True)
        assert two.fetch(ticket, "-o", f"{two.out}/{where}").code == 0
    found = sorted(str(p.relative_to(two.out)) for p in two.out.rglob("*") if p.is_file())
    assert found == ["as named", "made/f", "there/f"]
    assert (two.out / "as named").read_bytes() == source.read_bytes()


def test_without_o_it_is_the_current_folder(two: Two) -> None:
    ticket = two.store(two.file("f", 1000))
    assert two.start("fetch", ticket, env=two.there, cwd=two.out).code == 0
    assert two.arrived == ["f"]


def test_a_file_in_a_folder_that_is_not_there_exits_2(two: Two) -> None:
    said = complaint(two.fetch(two.store(two.file("f", 10)), "-o", two.out / "no/such"))
    assert (said.code, said.message) == (2, f"the folder of {two.out}/no/such does not exist")
    assert os.listdir(two.out) == []


def test_what_exists_is_not_touched(two: Two) -> None:
    ticket = two.store(two.file("f", 1000))
    (two.out / "f").write_bytes(b"mine")
    said = complaint(two.fetch(ticket))
    assert (said.code, said.message) == (8, "f is there already")
    assert said.next == "choose another folder with -o, or pass --overwrite or --rename"
    assert complaint(two.fetch(ticket, "-o", two.out / "f")).code == 8
    assert (two.out / "f").read_bytes() == b"mine"
    assert os.listdir(two.out) == ["f"]


def test_overwrite_replaces_files_and_merges_folders(two: Two) -> None:
    root = two.tmp / "root"
    root.mkdir()
    (root / "f").write_bytes(b"new")
    (two.out / "root").mkdir()
    (two.out / "root/f").write_bytes(b"old and longer")
    (two.out / "root/other").write_bytes(b"stays")
    ticket = two.store(root)
    assert complaint(two.fetch(ticket)).message == "root/f is there already"
    assert two.fetch(ticket, "--overwrite").code == 0
    assert (two.out / "root/f").read_bytes() == b"new"
    assert (two.out / "root/other").read_bytes() == b"stays"


def test_overwrite_never_replaces_a_folder_with_a_file(two: Two) -> None:
    ticket = two.store(two.file("f", 1000))
    (two.out / "f").mkdir()
    said = complaint(two.fetch(ticket, "--overwrite"))
    assert (said.code, "f is a folder here" in said.message) == (8, True)
    assert (two.out / "f").is_dir()


def test_rename_keeps_both(two: Two) -> None:
    ticket = two.store(two.file("f.tar.gz", 1000), two.file("g", 10))
    (two.out / "f.tar.gz").write_bytes(b"mine")
    got = two.fetch(ticket, "--rename").summary
    assert two.arrived == ["f.tar (1).gz", "f.tar.gz", "g"]
    assert got.paths == [f"{two.out}/f.tar (1).gz", f"{two.out}/g"]
    assert (two.out / "f.tar.gz").read_bytes() == b"mine"


def test_overwrite_and_rename_together_exit_2(two: Two) -> None:
    ticket = two.store(two.file("f", 10))
    said = complaint(two.fetch(ticket, "--rename", "--overwrite"))
    assert (said.code, said.message) == (2, "--overwrite and --rename contradict each other")


def test_a_folder_is_not_entered_through_a_link_that_stands_in_its_place(two: Two) -> None:
    root = two.tmp / "root"
    root.mkdir()
    (root / "f").write_bytes(b"new")
    (two.tmp / "elsewhere").mkdir()
    (two.out / "root").symlink_to(two.tmp / "elsewhere")
    said = complaint(two.fetch(two.store(root), "--overwrite"))
    assert said.code == 6
    assert said.message.startswith("root is a link here, and a folder in the transfer")
    assert list((two.tmp / "elsewhere").iterdir()) == []
    assert os.listdir(two.out) == ["root"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs names of any bytes")
def test_a_name_that_is_not_utf_8_arrives_and_can_be_fetched_into(two: Two) -> None:
    name = os.fsdecode(b"caf\xe9")
    source = two.file(name, 1000)
    got = two.fetch(two.store(source), "-o", f"{two.out / name}/")
    assert got.code == 0
    assert (two.out / name / name).read_bytes() == source.read_bytes()
