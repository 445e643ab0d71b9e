"""A ticket: the text that names a job and holds its secret, with check characters.

`xfer1` + version (1 symbol) + job id (16 symbols, 80 bits) + secret (26 symbols, 128 bits and two
zero bits) + 6 check characters: 54 characters in all, one word to select by double click, safe in
URLs, shells and speech of either letter case. Source of alphabet and checksum: BIP-350 (bech32m),
which finds any 4 wrong characters and misses others one time in a billion.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from transfer.errors import MistypedTicket, UnsupportedVersion

PREFIX = "xfer"
ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
JOB_SYMBOLS, SECRET_SYMBOLS, CHECK_SYMBOLS = 16, 26, 6
SECRET_BYTES = 16
VERSION = 0
_BECH32M = 0x2BC830A3
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


@dataclass(frozen=True, slots=True)
class Ticket:
    """job: 16 characters, public (it stands in subjects and object keys). secret: 16 bytes."""

    job: str
    secret: bytes

    @classmethod
    def new(cls) -> Ticket:
        """A fresh job id and secret from the operating system's generator."""
        job = "".join(ALPHABET[secrets.randbelow(32)] for _ in range(JOB_SYMBOLS))
        return cls(job, secrets.token_bytes(SECRET_BYTES))

    @classmethod
    def parse(cls, text: str) -> Ticket:
        """Read what `str(ticket)` wrote; letter case, and the blanks, breaks and brackets of a mail, do not matter.

        Raises:
            MistypedTicket: it is none, or a character is wrong; found without asking anyone.
            UnsupportedVersion: a later version's ticket.
        """
        text = "".join(text.split()).strip("<>()[]{}‹›«»\"'`.,;")
        if text != text.lower() and text != text.upper():
            raise MistypedTicket("that ticket mixes capital and small letters")
        text = text.lower()
        head = PREFIX + "1"
        if not text.startswith(head):
            raise MistypedTicket("that is not a ticket")
        symbols = [ALPHABET.find(c) for c in text[len(head) :]]
        if -1 in symbols or len(symbols) <= CHECK_SYMBOLS or _polymod(_expand() + symbols) != _BECH32M:
            raise MistypedTicket("that ticket has a typing error, or a part of it is missing")
        if symbols[0] != VERSION:
            raise UnsupportedVersion("that ticket was made by a newer xfer")
        body = symbols[1:-CHECK_SYMBOLS]
        if len(body) != JOB_SYMBOLS + SECRET_SYMBOLS:
            raise MistypedTicket("that ticket has the wrong length")
        number = 0
        for symbol in body[JOB_SYMBOLS:]:
            number = number << 5 | symbol
        number, padding = divmod(number, 4)
        if padding:
            raise MistypedTicket("that ticket has a typing error at its end")
        return cls(text[len(head) + 1 : len(head) + 1 + JOB_SYMBOLS], number.to_bytes(SECRET_BYTES, "big"))

    def __str__(self) -> str:
        number = int.from_bytes(self.secret, "big") * 4
        secret = [number >> 5 * k & 31 for k in reversed(range(SECRET_SYMBOLS))]
        body = [VERSION, *(ALPHABET.index(c) for c in self.job), *secret]
        check = _polymod(_expand() + body + [0] * CHECK_SYMBOLS) ^ _BECH32M
        tail = [check >> 5 * (CHECK_SYMBOLS - 1 - k) & 31 for k in range(CHECK_SYMBOLS)]
        return PREFIX + "1" + "".join(ALPHABET[s] for s in body + tail)

    def __repr__(self) -> str:
        return f"Ticket({self.job}, secret withheld)"


def is_job_id(text: str) -> bool:
    """Whether this could be a job id: 16 symbols of the alphabet."""
    return len(text) == JOB_SYMBOLS and all(c in ALPHABET for c in text)


def _expand() -> list[int]:
    return [ord(c) >> 5 for c in PREFIX] + [0] + [ord(c) & 31 for c in PREFIX]


def _polymod(values: list[int]) -> int:
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(_GENERATOR):
            if top >> bit & 1:
                check ^= generator
    return check
