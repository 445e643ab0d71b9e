"""Quotas as a user meets them: exit 7 and a sentence, `xfer usage`, a limit that is raised while the servers run."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Servers

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="local servers need Linux or macOS")
Xfer = Callable[..., "subprocess.CompletedProcess[str]"]
RULES = 'admins = ["local"]\n[quota]\nbytes_per_day = {limit}\nopen_jobs = 20\n'
COUNTED = ("day", "month", "stored", "jobs")


@pytest.fixture(scope="module")
def ours(
    tmp_path_factory: pytest.TempPathFactory,
    start_servers: Callable[..., Servers],
    stop_servers: Callable[[Servers], int],
) -> Iterator[Servers]:
    """Servers whose rules the tests change; each begins with what the ones before it used."""
    base = tmp_path_factory.mktemp("usage")
    servers = start_servers(base / "home", base / "data")
    try:
        yield servers
    finally:
        stop_servers(servers)


def test_who_is_over_quota_is_told_so_sees_it_and_goes_on_once_the_limit_is_raised(
    ours: Servers, xfer: Xfer, tmp_path: Path
) -> None:
    rules = ours.dir / "broker.toml"
    assert rules.exists()
    used = json.loads(xfer("usage", "--json", env=ours.env).stdout)["day"]["used"]
    rules.write_text(RULES.format(limit=used + 10**6))
    file = tmp_path / "large.bin"
    file.write_bytes(bytes(range(256)) * 8_000)
    wait_for_limit(xfer, ours, used + 10**6)

    refused = xfer("send", file, "--wait", "0", env=ours.env)
    assert refused.returncode == 7
    assert refused.stdout == ""
    said = " ".join(refused.stderr.split())
    assert "used today, 1.0 MB left, this needs 2" in said
    assert "over quota: " in said
    assert "it resets at 00:00 UTC (in " in said
    assert "Traceback" not in said
    event = json.loads(xfer("send", file, "--wait", "0", "--json", env=ours.env).stdout)
    assert (event["code"], event["kind"]) == (7, "OverQuota")

    rules.write_text(RULES.format(limit='"1GB"'))
    wait_for_limit(xfer, ours, 10**9)
    sent = xfer("send", file, "--wait", "0", env=ours.env)
    assert sent.returncode == 0, sent.stderr
    shown = xfer("usage", env=ours.env)
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0] == "local"
    assert [line.split("  ")[1] for line in lines[1:]] == ["today", "this month", "stored", "open jobs"]
    assert max(map(len, lines)) <= 80
    assert "of 1.00 GB" in lines[1]
    assert "resets in" in lines[1]

    deadline = time.monotonic() + 60
    while (mine := json.loads(xfer("usage", "--json", env=ours.env).stdout))["jobs"]["used"]:
        assert time.monotonic() < deadline  # what is settled is settled a moment later
        time.sleep(0.2)
    assert mine["user"] == "local"
    assert used < mine["day"]["used"] < used + file.stat().st_size  # compressed
    assert mine["stored"]["used"] > 0
    assert mine["day"]["limit"] == 10**9
    assert mine["jobs"] == {"used": 0, "limit": 20, "resets": None}
    assert mine["day"]["resets"].endswith("T00:00:00Z")
    everybody = json.loads(xfer("usage", "--all", "--json", env=ours.env).stdout)
    assert [each["user"] for each in everybody["users"]] == ["local"]
    assert everybody["total"]["day"]["used"] == mine["day"]["used"]
    table = xfer("usage", "--all", env=ours.env).stdout.splitlines()
    assert table[0].split() == ["USER", "TODAY", "THIS", "MONTH", "STORED", "OPEN", "JOBS"]
    assert [line.split("  ")[0] for line in table[1:]] == ["local", "all together"]

    rules.write_text("[quota]\nbytes_per_day = 5\n")
    wait_for_limit(xfer, ours, 5)
    assert xfer("usage", "--all", env=ours.env).returncode == 7
    assert xfer("usage", "bob", env=ours.env).returncode == 7


def wait_for_limit(xfer: Xfer, servers: Servers, limit: int) -> None:
    deadline = time.monotonic() + 60
    while json.loads(xfer("usage", "--json", env=servers.env).stdout)["day"]["limit"] != limit:
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_a_stream_that_outgrows_the_quota_ends_with_exit_7_and_gives_back_what_it_reserved(
    ours: Servers, xfer: Xfer, tmp_path: Path
) -> None:
    before = json.loads(xfer("usage", "--json", env=ours.env).stdout)
    limit = before["day"]["used"] + 10**6
    (ours.dir / "broker.toml").write_text(RULES.format(limit=limit))
    wait_for_limit(xfer, ours, limit)
    produce = f"{sys.executable} -c 'import os, sys; sys.stdout.buffer.write(os.urandom(30_000_000))'"
    refused = xfer("send", "--from-command", produce, "--name", "noise", "--wait", "0", env=ours.env)
    assert refused.returncode == 7, refused.stderr
    assert "used today, 1.0 MB left, this needs" in " ".join(refused.stderr.split())
    deadline = time.monotonic() + 60
    while True:
        after = json.loads(xfer("usage", "--json", env=ours.env).stdout)
        if all(after[what]["used"] == before[what]["used"] for what in COUNTED):
            break
        assert time.monotonic() < deadline, after
        time.sleep(0.2)
