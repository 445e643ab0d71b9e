"""URLs of STUN and TURN servers: what they say, what is refused, and what is never shown."""

from __future__ import annotations

import pytest

from transfer.errors import UsageError
from transfer.ice_urls import Relay, parse_stun, parse_turn


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("stun:relay.example", ("relay.example", 3478)),
        ("stun:relay.example:19302", ("relay.example", 19302)),
        ("stun:192.0.2.1:1", ("192.0.2.1", 1)),
        ("stun:[2001:db8::1]:5000", ("2001:db8::1", 5000)),
    ],
)
def test_a_stun_url_names_a_host_and_a_port(url: str, server: tuple[str, int]) -> None:
    assert parse_stun(url) == server


@pytest.mark.parametrize(
    ("url", "relay"),
    [
        ("turn:r.example", ("r.example", 3478, "udp", False)),
        ("turn:r.example:1?transport=udp", ("r.example", 1, "udp", False)),
        ("turn:r.example:1?transport=tcp", ("r.example", 1, "tcp", False)),
        ("turn:[::1]:1?transport=tcp", ("::1", 1, "tcp", False)),
        ("turns:r.example", ("r.example", 5349, "tcp", True)),
        ("turns:r.example:443?transport=tcp", ("r.example", 443, "tcp", True)),
    ],
)
def test_a_turn_url_says_how_it_is_spoken_to(url: str, relay: tuple[str, int, str, bool]) -> None:
    found = parse_turn(url, "ann", "hunter2")
    assert (found.host, found.port, found.transport, found.tls) == relay
    assert (found.username, found.password) == ("ann", "hunter2")


@pytest.mark.parametrize(
    "url",
    [
        "", "stun:", "stun://relay.example", "stuns:relay.example", "relay.example:3478", "stun:h:0", "stun:h:65536", "stun:h:x",
        "stun:h:", "stun:h?transport=udp", "stun:a b", "turn:h", "stun:[::1", "stun:h:1/", "stun:h\n",
    ],
)  # fmt: skip
def test_what_is_no_stun_server_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="is not a STUN server"):
        parse_stun(url)


@pytest.mark.parametrize(
    "url",
    [
        "", "turn:", "turn://h", "stun:h", "turn:h?transport=pigeon", "turns:h?transport=udp", "turn:h:70000", "h:3478",
        "turn:h?transport=udp&x=1", "turn:h?", "turn:h x",
    ],
)  # fmt: skip
def test_what_is_no_turn_server_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="is not a TURN server"):
        parse_turn(url, "", "")


@pytest.mark.parametrize(
    "url", ["turn:ann:hunter2@relay.example", "turn://ann:hunter2@relay.example:1", "turns:hunter2@x"]
)
def test_a_password_in_a_url_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(UsageError, match="holds no user and no password") as refused:
        parse_turn(url, "", "")
    assert "hunter2" not in refused.value.what + refused.value.next_step
    assert "--turn-password-file" in refused.value.next_step


def test_a_relays_password_is_not_in_its_repr() -> None:
    assert "hunter2" not in repr(Relay("h", 1, "udp", False, "ann", "hunter2"))
