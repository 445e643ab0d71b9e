"""The SDP of a session that is one data channel connection and no more: read, and made.

Sources: RFC 8866 (the lines), RFC 8839 (ICE), RFC 8841 (SCTP), RFC 8842 (DTLS), RFC 9143 (bundles).
Whatever else an SDP says is passed over: what is needed is stated, or it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from transfer.errors import ProtocolError
from transfer.sctp.association import PORT
from transfer.wire import MAX_CANDIDATES, MAX_MESSAGE, Description

MAX_SDP = 1 << 16
"""Characters. A browser's has 600, and 100 for each address."""
MAX_FINGERPRINTS = 8
SILENT_ABOUT_SIZE = 1 << 16
"""Bytes of a message that an end takes which states no limit. Source: RFC 8841 section 6.1."""
_MEDIA = re.compile(r"([a-z]+) (\d{1,5})(?:/\d+)? (\S+) (.+)")
_PROTOCOLS = ("UDP/DTLS/SCTP", "TCP/DTLS/SCTP")
_FORMAT = "webrtc-datachannel"
_TOKEN = re.compile(r"[!#-'*+.\w^`{-~-]{1,64}", re.ASCII)
_SECRET = re.compile(r"[!-~]{4,256}")
_FINGERPRINT = re.compile(r"([\w-]{1,32}) ([0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){0,127})", re.ASCII)
_SETUPS = ("active", "passive", "actpass")
_NUMBER = re.compile(r"[0-9]{1,20}")


class Session(NamedTuple):
    """What one end says of itself. description: without `init` and `max_packet`, of which SDP knows nothing.

    mid: the name of the data channel's section; empty: it has none. port: SCTP's. bundled: the section is in a bundle.
    """

    description: Description
    mid: str = "0"
    port: int = PORT
    bundled: bool = True


def write(session: Session, number: int) -> str:
    """The SDP of an offer or an answer. number: of the session, below 2^63, different for each.

    Raises ProtocolError for a description, which may be the peer's, that would be more than its own lines.
    """
    theirs = session.description
    lines = ["v=0", f"o=- {number} 1 IN IP4 0.0.0.0", "s=-", "t=0 0"]
    if session.bundled and session.mid:
        lines.append(f"a=group:BUNDLE {session.mid}")
    lines += [f"m=application 9 {_PROTOCOLS[0]} {_FORMAT}", "c=IN IP4 0.0.0.0"]
    if session.mid:
        lines.append(f"a=mid:{session.mid}")
    lines += [f"a=ice-ufrag:{theirs.ufrag}", f"a=ice-pwd:{theirs.password}"]
    lines += [f"a=fingerprint:{algorithm} {value}" for algorithm, value in theirs.fingerprints]
    lines += [
        f"a=setup:{theirs.setup}",
        f"a=sctp-port:{session.port}",
        f"a=max-message-size:{theirs.max_message}",
    ]
    lines += [f"a=candidate:{line}" for line in theirs.candidates]
    if any(line.splitlines() != [line] for line in lines):
        raise ProtocolError("the peer's description of itself has line breaks in it")
    return "\r\n".join([*lines, "a=end-of-candidates", ""])


def read(text: str) -> Session:
    """What an offer or an answer says. Raises ProtocolError for one that is no data channel's, or has no bounds."""
    if len(text) > MAX_SDP:
        raise ProtocolError("the peer's SDP is too long")
    lines = list(_lines(text))
    if lines[:1] != [("v", "0")]:
        raise ProtocolError("what the peer sent is no SDP")
    starts = [at for at, (kind, _) in enumerate(lines) if kind == "m"]
    if len(starts) != 1:
        raise ProtocolError("the peer's SDP describes something else than one data channel connection")
    _check_media(lines[starts[0]][1])
    common, own = _attributes(lines[: starts[0]]), _attributes(lines[starts[0] + 1 :])
    if "ice-lite" in common:
        raise ProtocolError("the peer looks for no path by itself (ICE lite), which this program must have")
    groups = [group.split() for group in common.get("group", [])]
    mid = _last(own, "mid", _TOKEN, "")
    port = _number(own, "sctp-port", None)
    if not 0 < port < 65536:
        raise ProtocolError("the peer's SDP names an impossible port of SCTP")
    both = {**common, **own}
    setup = _last(both, "setup", _TOKEN)
    if setup not in _SETUPS:
        raise ProtocolError("the peer would not take its part in the encrypted handshake")
    candidates = own.get("candidate", [])
    if len(candidates) > MAX_CANDIDATES:
        raise ProtocolError("the peer states too many addresses")
    description = Description(
        ufrag=_last(both, "ice-ufrag", _SECRET),
        password=_last(both, "ice-pwd", _SECRET),
        candidates=candidates,
        fingerprints=_fingerprints(both.get("fingerprint", [])),
        setup=setup,
        init=b"",
        max_message=_number(own, "max-message-size", SILENT_ABOUT_SIZE) or MAX_MESSAGE,  # 0: any
    )
    bundled = any(group[:1] == ["BUNDLE"] and mid in group[1:] for group in groups)
    return Session(description, mid, port, bundled)


def _lines(text: str) -> Iterator[tuple[str, str]]:
    """(type, value) of each. Only these ends of a line are SDP's: what holds one that only others know is none."""
    for line in text.split("\n"):
        line = line.removesuffix("\r")
        if line[1:2] == "=" and line.splitlines() == [line]:
            yield line[0], line[2:]
        elif line:
            raise ProtocolError("what the peer sent is no SDP")


def _attributes(lines: list[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for kind, value in lines:
        if kind == "a":
            name, _, rest = value.partition(":")
            found.setdefault(name, []).append(rest.strip())
    return found


def _check_media(value: str) -> None:
    match = _MEDIA.fullmatch(value)
    if match is None or match[1] != "application" or match[3] not in _PROTOCOLS or match[4] != _FORMAT:
        raise ProtocolError("the peer's SDP describes something else than one data channel connection")
    if not int(match[2]):
        raise ProtocolError("the peer refused the data channel")


def _last(
    attributes: dict[str, list[str]], name: str, form: re.Pattern[str], default: str | None = None
) -> str:
    value = attributes.get(name, [default])[-1]
    if value is None:
        raise ProtocolError(f"the peer's SDP lacks {name}")
    if value != default and not form.fullmatch(value):
        raise ProtocolError(f"the peer's SDP has a {name} that cannot be read")
    return value


def _number(attributes: dict[str, list[str]], name: str, default: int | None) -> int:
    return int(_last(attributes, name, _NUMBER, None if default is None else str(default)))


def _fingerprints(values: list[str]) -> list[tuple[str, str]]:
    found = [match for match in map(_FINGERPRINT.fullmatch, values) if match]
    if len(values) > MAX_FINGERPRINTS or not found or len(found) < len(values):
        raise ProtocolError("the peer's SDP names no certificate that can be checked")
    return [(match[1].lower(), match[2].upper()) for match in found]
