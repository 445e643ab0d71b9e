"""A ticket: the text that names a job or a room and holds its secret, with check characters.

`xfer1` (of a room: `xferroom1`) + version (1 symbol) + id (16 symbols, 80 bits) + secret (26 symbols, 128
bits and two zero bits) + 6 check characters: 54 characters (58) in all, one word to select by double click, safe in
URLs, shells and speech of either letter case. The check characters find any 4 wrong ones (`bech32m`).
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import ClassVar, Self

from transfer.bech32m import ALPHABET, CHECK_SYMBOLS, check_of, fits
from transfer.errors import MistypedTicket, UnsupportedVersion

JOB_SYMBOLS, SECRET_SYMBOLS = 16, 26
"""A room's id has as many as a job's."""
SECRET_BYTES = 16
VERSION = 0


@dataclass(frozen=True, slots=True)
class Secret:
    """What all tickets are made of. id: 16 characters, public (it stands in subjects and keys). secret: 16 bytes."""

    PREFIX: ClassVar[str]
    NAMED: ClassVar[str]
    """What the others' messages call one."""

    id: str
    secret: bytes

    @classmethod
    def new(cls) -> Self:
        """A fresh id and secret from the operating system's generator."""
        fresh = "".join(ALPHABET[secrets.randbelow(32)] for _ in range(JOB_SYMBOLS))
        return cls(fresh, secrets.token_bytes(SECRET_BYTES))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str(ticket)` wrote; letter case, and the blanks, breaks and brackets of a mail, do not matter.

        Raises:
            MistypedTicket: it is none, or none of this kind, or a character is wrong; found without asking anyone.
            UnsupportedVersion: a later version's ticket.
        """
        head = cls.PREFIX + "1"
        again = f"copy the whole ticket again; it starts with {head}"
        text = "".join(text.split()).strip("<>()[]{}‹›«»\"'`.,;")
        if text != text.lower() and text != text.upper():
            raise MistypedTicket("that ticket mixes capital and small letters", hint=again)
        text = text.lower()
        if not text.startswith(head):
            for other in (Ticket, RoomTicket):
                if text.startswith(other.PREFIX + "1"):
                    raise MistypedTicket(
                        f"that is {other.NAMED}, not {cls.NAMED}",
                        hint=f"give the one that starts with {head}",
                    )
            raise MistypedTicket("that is not a ticket", hint=again)
        symbols = [ALPHABET.find(c) for c in text[len(head) :]]
        if -1 in symbols or not fits(cls.PREFIX, symbols):
            raise MistypedTicket("that ticket has a typing error, or a part of it is missing", hint=again)
        if symbols[0] != VERSION:
            raise UnsupportedVersion("that ticket was made by a newer xfer")
        body = symbols[1:-CHECK_SYMBOLS]
        if len(body) != JOB_SYMBOLS + SECRET_SYMBOLS:
            raise MistypedTicket("that ticket has the wrong length", hint=again)
        number = 0
        for symbol in body[JOB_SYMBOLS:]:
            number = number << 5 | symbol
        number, padding = divmod(number, 4)
        if padding:
            raise MistypedTicket("that ticket has a typing error at its end", hint=again)
        return cls("".join(ALPHABET[s] for s in body[:JOB_SYMBOLS]), number.to_bytes(SECRET_BYTES, "big"))

    def __str__(self) -> str:
        number = int.from_bytes(self.secret, "big") * 4
        secret = [number >> 5 * k & 31 for k in reversed(range(SECRET_SYMBOLS))]
        body = [VERSION, *(ALPHABET.index(c) for c in self.id), *secret]
        return self.PREFIX + "1" + "".join(ALPHABET[s] for s in body + check_of(self.PREFIX, body))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id}, secret withheld)"


@dataclass(frozen=True, slots=True, repr=False)
class Ticket(Secret):
    """Of a job."""

    PREFIX = "xfer"
    NAMED = "a transfer's ticket"

    @property
    def job(self) -> str:
        return self.id


@dataclass(frozen=True, slots=True, repr=False)
class RoomTicket(Secret):
    """Of a room: whoever holds it is a member."""

    PREFIX = "xferroom"
    NAMED = "a room's ticket"

    @property
    def room(self) -> str:
        return self.id


def is_job_id(text: str) -> bool:
    """Whether this could be the id of a job, or of a room: 16 symbols of the alphabet."""
    return len(text) == JOB_SYMBOLS and all(c in ALPHABET for c in text)
