"""An invite: one line with all that a colleague needs to log in, with check characters.

`xferjoin1` + version (1 symbol) + payload + 6 check characters, in the alphabet of tickets: one word to select
by double click, safe in mails that break or capitalise it. The payload is msgpack: server address, user, nkey
seed, and the certificate of the authority that the server is known by. Whoever has the line is that user.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec

from transfer.bech32m import ALPHABET, CHECK_SYMBOLS, check_of, fits
from transfer.errors import MistypedTicket, UnsupportedVersion

PREFIX = "xferjoin"
VERSION = 0
MAX_TEXT = 16_384
"""Characters that are read of one; it has about 700."""
_AGAIN = f"copy the whole line again; it starts with {PREFIX}1"


class _Payload(msgspec.Struct, frozen=True, array_like=True):
    url: str
    user: str
    seed: bytes
    ca: bytes | None


@dataclass(frozen=True, slots=True)
class Invite:
    """url: of NATS. seed: `SU…`, secret. ca: DER of the authority's certificate; None where there is no TLS."""

    url: str
    user: str
    seed: str
    ca: bytes | None

    @property
    def host(self) -> str:
        """The server's name."""
        return urlsplit(self.url).hostname or ""

    @classmethod
    def parse(cls, text: str) -> Invite:
        """Read what `str(invite)` wrote; letter case and line breaks do not matter.

        Raises:
            MistypedTicket: it is none, or a character is wrong; found without asking anyone.
            UnsupportedVersion: a later version's invite.
        """
        text = "".join(text.split()).strip("<>()[]{}‹›«»\"'`.,;")
        if text not in (text.lower(), text.upper()):
            raise MistypedTicket("that invite mixes capital and small letters", hint=_AGAIN)
        text, head = text.lower(), PREFIX + "1"
        if not text.startswith(head):
            raise MistypedTicket("that is not an invite", hint=_AGAIN)
        symbols = [ALPHABET.find(c) for c in text[len(head) :]]
        if -1 in symbols or len(text) > MAX_TEXT or not fits(PREFIX, symbols):
            raise MistypedTicket("that invite has a typing error, or a part of it is missing", hint=_AGAIN)
        if symbols[0] != VERSION:
            raise UnsupportedVersion("that invite was made by a newer xfer")
        try:
            payload = msgspec.msgpack.decode(_bytes(symbols[1:-CHECK_SYMBOLS]), type=_Payload)
        except (msgspec.MsgspecError, ValueError):
            raise MistypedTicket("that invite holds something else", hint=_AGAIN) from None
        return cls(payload.url, payload.user, base64.b32encode(payload.seed).decode().rstrip("="), payload.ca)

    def __str__(self) -> str:
        try:
            seed = base64.b32decode(self.seed + "=" * (-len(self.seed) % 8))
        except binascii.Error:
            raise ValueError("the seed is no nkey seed") from None
        body = [VERSION, *_symbols(msgspec.msgpack.encode(_Payload(self.url, self.user, seed, self.ca)))]
        return PREFIX + "1" + "".join(ALPHABET[s] for s in (*body, *check_of(PREFIX, body)))

    def __repr__(self) -> str:
        return f"Invite({self.url}, {self.user}, seed withheld)"


def _symbols(data: bytes) -> list[int]:
    """Five bits each, the last filled up with zeros."""
    count = -(-len(data) * 8 // 5)
    number = int.from_bytes(data, "big") << count * 5 - len(data) * 8
    return [number >> 5 * k & 31 for k in reversed(range(count))]


def _bytes(symbols: list[int]) -> bytes:
    number, length = 0, len(symbols) * 5 // 8
    for symbol in symbols:
        number = number << 5 | symbol
    number, padding = divmod(number, 1 << len(symbols) * 5 - length * 8)
    if padding:
        raise ValueError("bits after the end")
    return number.to_bytes(length, "big")
