"""The peers' link dies midway through a direct transfer: the store takes over in the same run."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hosts import Hosts, two_hosts, why_not

from transfer.chunks import MIB
from transfer.session import WINDOW

pytestmark = [pytest.mark.root, pytest.mark.long]
SIZE = 20_000_000
SHARES = pytest.mark.parametrize("share", [0.1, 0.5, 0.95])


class Run:
    """An `xfer … --json` whose events are read as they come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.events: list[dict[str, Any]] = []
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._more:
                self.events.append(json.loads(line))
                self._more.notify_all()
        with self._more:
            self.events.append({"event": "end"})
            self._more.notify_all()

    def until(self, wanted: Any, within: float = 60) -> dict[str, Any]:
        """The first event that `wanted` accepts."""
        deadline, at = time.monotonic() + within, 0
        with self._more:
            while True:
                for event in self.events[at:]:
                    if wanted(event):
                        return event
                    assert event["event"] != "end", (
                        self.events,
                        self.process.stderr and self.process.stderr.read(),
                    )
                at = len(self.events)
                assert self._more.wait(deadline - time.monotonic()), self.events[-5:]

    def end(self, within: float = 90) -> int:
        """Its code, once all that it said is read."""
        code = self.process.wait(within)
        self._reader.join(within)
        assert not self._reader.is_alive()
        return code

    @property
    def summary(self) -> dict[str, Any]:
        """Of one that has ended; its last word."""
        said, end = self.events[-2:]
        assert (said["event"], end["event"]) == ("summary", "end")
        return said

    def routes(self) -> list[str]:
        return [e["route"] for e in self.events if e["event"] == "route"]


@pytest.fixture
def hosts(tmp_path: Path, clean_env: dict[str, str]) -> Iterator[Hosts]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with two_hosts(clean_env, tmp_path) as pair:
        up = pair.run(pair.near, "up", "--json")
        try:
            assert up.stdout is not None
            line = up.stdout.readline()
            assert line, up.stderr and up.stderr.read()
            said = json.loads(line)
            pair.serve(said["nats_url"], said["s3_endpoint"])
            yield pair
        finally:
            up.terminate()
            up.wait(30)


def transfer_until(hosts: Hosts, share: float, *options: str) -> tuple[Run, Run, Path]:
    """Begin a direct transfer and return once that share of it has arrived.

    Near its end it is slow enough that what happens then comes before the rest does.
    """
    if share > 0.9:
        options = (*options, "--bwlimit", "1MiB")
    source = hosts.folder / "data.bin"
    source.write_bytes(os.urandom(SIZE))
    sending = Run(hosts.run(hosts.near, "send", source, "--json", *options))
    ticket = sending.until(lambda e: e["event"] == "ticket")["ticket"]
    fetching = Run(hosts.run(hosts.far, "fetch", ticket, "-o", "got/", "--json"))
    fetching.until(lambda e: e["event"] == "progress" and e["done"] >= share * SIZE)
    return sending, fetching, source


@SHARES
def test_a_link_that_dies_midway_ends_in_a_complete_file_over_s3(hosts: Hosts, share: float) -> None:
    sending, fetching, source = transfer_until(hosts, share)
    hosts.cut()
    assert fetching.end() == 0
    assert sending.end() == 0
    assert fetching.routes() == ["webrtc", "s3"]
    assert sending.routes() == ["webrtc", "s3"]
    assert (hosts.folder / "got/data.bin").read_bytes() == source.read_bytes()
    assert sending.summary["outcome"] == "receipt"
    assert os.listdir(hosts.folder / "got") == ["data.bin"]


def test_a_receiver_without_any_network_for_a_while_still_gets_everything(hosts: Hosts) -> None:
    sending, fetching, source = transfer_until(hosts, 0.3, "--wait", "5s")
    hosts.cut()
    hosts.disconnect()
    stored = sending.until(lambda e: e["event"] == "stored")
    assert stored["segments"] > 0
    assert sending.end() == 0
    hosts.connect()
    assert fetching.end() == 0
    assert (hosts.folder / "got/data.bin").read_bytes() == source.read_bytes()


def test_what_the_peer_acknowledged_is_stored_only_if_no_receipt_comes(hosts: Hosts) -> None:
    sending, fetching, _ = transfer_until(hosts, 0.5)
    hosts.cut()
    assert fetching.end() == 0
    assert sending.end() == 0
    summary = sending.summary
    assert summary["outcome"] == "receipt"
    assert summary["wire"] < SIZE + WINDOW + 2 * MIB, (
        "frames that were acknowledged crossed the network again"
    )


@SHARES
def test_a_receiver_that_is_killed_midway_has_the_sender_store_the_whole(hosts: Hosts, share: float) -> None:
    sending, fetching, source = transfer_until(hosts, share, "--wait", "2s")
    fetching.process.kill()
    killed = time.monotonic()
    sending.until(lambda e: e["event"] == "route" and e["route"] == "s3")
    assert time.monotonic() - killed < 4, "3 s, and what a busy machine adds"
    assert sending.end() == 0
    assert sending.summary["outcome"] == "stored"
    ticket = sending.events[0]["ticket"]
    later = Run(hosts.run(hosts.far, "fetch", ticket, "-o", "later/", "--json"))
    assert later.end() == 0
    assert (hosts.folder / "later/data.bin").read_bytes() == source.read_bytes()


@SHARES
def test_a_sender_that_is_killed_midway_goes_on_where_it_was(hosts: Hosts, share: float) -> None:
    sending, fetching, source = transfer_until(hosts, share)
    sending.process.kill()
    again = Run(hosts.run(hosts.near, "send", source, "--json"))
    assert again.end() == 0
    assert fetching.end() == 0
    assert (hosts.folder / "got/data.bin").read_bytes() == source.read_bytes()
    summary = again.summary
    assert summary["outcome"] == "receipt"
    assert summary["wire"] < (1 - share) * SIZE + WINDOW + 4 * MIB
    assert "s3" not in again.routes()  # nor a second connection, if the last bytes were on their way


def test_a_receiver_that_changes_networks_midway_finishes_directly(hosts: Hosts) -> None:
    sending, fetching, source = transfer_until(hosts, 0.3)
    hosts.move()
    assert fetching.end() == 0
    assert sending.end() == 0
    assert (hosts.folder / "got/data.bin").read_bytes() == source.read_bytes()
    assert sending.routes() == ["webrtc"]
    noticed = [e["text"] for e in fetching.events if e["event"] == "notice"]
    assert any("the direct connection failed" in text for text in noticed), noticed
    assert sending.summary["wire"] < SIZE + WINDOW + 4 * MIB
