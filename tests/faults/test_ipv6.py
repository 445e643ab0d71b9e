"""Two hosts that have nothing but IPv6 between them."""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path

import pytest
from helpers import MIB, Two
from hosts import two_hosts, why_not

from transfer.events import RouteChosen

pytestmark = [pytest.mark.root, pytest.mark.long]
SIZE = 6 * MIB


def test_peers_meet_over_ipv6_alone_and_send_many_packets_at_once(
    tmp_path: Path, clean_env: dict[str, str]
) -> None:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    (tmp_path / "out").mkdir()
    with two_hosts(clean_env, tmp_path, ipv6=True) as hosts, contextlib.ExitStack() as stack:
        up = hosts.run(hosts.near, "up", "--json")
        stack.callback(up.wait, 30)
        stack.callback(up.terminate)
        assert up.stdout is not None
        said = json.loads(up.stdout.readline())
        hosts.serve(said["nats_url"], said["s3_endpoint"])
        pair = Two(tmp=tmp_path, here=clean_env, there=clean_env, out=tmp_path / "out", started=[])
        stack.callback(pair.close)
        near, far = (("ip", "netns", "exec", host) for host in (hosts.near, hosts.far))
        source = pair.file("payload", SIZE)
        sending = pair.send(source, "--via", "webrtc", prefix=near)
        fetching = pair.fetch(sending.ticket, prefix=far)
        assert sending.event(RouteChosen).route == "webrtc"
        assert fetching.summary.bytes == SIZE
        assert sending.summary.outcome == "receipt"
        assert (pair.out / "payload").read_bytes() == source.read_bytes()
        count, packets = sent(hosts.near)
        assert count > SIZE
        assert count / packets > 1500, "one packet to the device holds many of the network's (UDP_SEGMENT)"


def sent(host: str) -> tuple[int, int]:
    """Bytes and packets that the host has put on the link."""
    folder = "/sys/class/net/peer/statistics"
    said = subprocess.run(
        ["ip", "netns", "exec", host, "cat", f"{folder}/tx_bytes", f"{folder}/tx_packets"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    count, packets = map(int, said.split())
    return count, packets
