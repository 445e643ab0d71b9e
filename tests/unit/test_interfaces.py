"""`--interface`: which of this host's addresses a peer is told of."""

from __future__ import annotations

import subprocess
import sys

import ifaddr
import pytest

from transfer.errors import UsageError
from transfer.transports.interfaces import check_interfaces, host_addresses


def adapters(**found: list[str]) -> list[ifaddr.Adapter]:
    def ip(text: str) -> ifaddr.IP:
        return ifaddr.IP(text, 24, "x") if ":" not in text else ifaddr.IP((text, 0, 0), 64, "x")

    return [ifaddr.Adapter(name, name, [ip(text) for text in texts]) for name, texts in found.items()]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    there = adapters(
        lo=["127.0.0.1", "::1"], eth0=["192.0.2.5", "2001:db8::5", "fe80::5"], wg0=["10.0.0.5"],
        docker0=["172.17.0.1"], eth1=["fe80::6"],
    )  # fmt: skip
    monkeypatch.setattr(ifaddr, "get_adapters", lambda: there)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ([], ["192.0.2.5", "2001:db8::5", "10.0.0.5"]),
        (["wg0"], ["10.0.0.5"]),
        (["eth0"], ["192.0.2.5", "2001:db8::5"]),
        (["192.0.2.5"], ["192.0.2.5"]),
        (["2001:0DB8:0::5"], ["2001:db8::5"]),
        (["10.0.0.5", "eth0"], ["192.0.2.5", "2001:db8::5", "10.0.0.5"]),
        (["docker0"], ["172.17.0.1"]),
        (["lo"], ["127.0.0.1", "::1"]),
        (["gone"], []),
    ],
)
def test_the_addresses_are_those_of_what_was_chosen(chosen: list[str], expected: list[str]) -> None:
    assert host_addresses(chosen) == expected


@pytest.mark.parametrize("chosen", [[], ["eth0"], ["10.0.0.5", "lo"], ["2001:DB8::5"]])
def test_what_is_there_may_be_chosen(chosen: list[str]) -> None:
    check_interfaces(chosen)


@pytest.mark.parametrize("text", ["eth", "eth1", "192.0.2.6", "fe80::5", "", "ETH0"])
def test_what_is_not_there_is_named_with_what_is(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        check_interfaces(["wg0", text])
    assert repr(text) in refused.value.what
    assert refused.value.next_step == (
        "there are lo (127.0.0.1, ::1), eth0 (192.0.2.5, 2001:db8::5), wg0 (10.0.0.5), docker0 (172.17.0.1)"
    )


def test_a_host_without_any_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ifaddr, "get_adapters", list)
    with pytest.raises(UsageError) as refused:
        check_interfaces(["eth0"])
    assert refused.value.next_step == "this host has none"


def test_the_command_lines_that_take_it_refuse_it_with_2(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_URL", "nats://127.0.0.1:9")
    monkeypatch.setenv("XFER_HOME", str(tmp_path))
    ticket = "xfer1q5ghs32gmypcwqw00wvzyplg8xqz2ej40ka922x672qmx40tc"
    for args in (("send", "--interface", "nope", __file__), ("fetch", ticket, "--interface", "nope")):
        run = subprocess.run(
            [sys.executable, "-P", "-m", "cli", *args], capture_output=True, text=True, timeout=60
        )
        assert (run.returncode, run.stdout) == (2, ""), run.stderr
        assert "'nope'" in run.stderr
        assert "127.0.0.1" in run.stderr
    monkeypatch.setenv("XFER_INTERFACE", "lo nope")
    run = subprocess.run(
        [sys.executable, "-P", "-m", "cli", "send", __file__], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 2
    assert "'nope'" in run.stderr
