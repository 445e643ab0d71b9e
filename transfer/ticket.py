"""A ticket: the text that names a job and holds its secret, with check characters.

`xfer1` + version (1 symbol) + job id (16 symbols, 80 bits) + secret (26 symbols, 128 bits and two
zero bits) + 6 check characters: 54 characters in all, one word to select by double click, safe in
URLs, shells and speech of either letter case. The check characters find any 4 wrong ones (`bech32m`).
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from transfer.bech32m import ALPHABET, CHECK_SYMBOLS, check_of, fits
from transfer.errors import MistypedTicket, UnsupportedVersion

PREFIX = "xfer"
JOB_SYMBOLS, SECRET_SYMBOLS = 16, 26
SECRET_BYTES = 16
VERSION = 0


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
        if -1 in symbols or not fits(PREFIX, symbols):
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
        return PREFIX + "1" + "".join(ALPHABET[s] for s in body + check_of(PREFIX, body))

    def __repr__(self) -> str:
        return f"Ticket({self.job}, secret withheld)"


def is_job_id(text: str) -> bool:
    """Whether this could be a job id: 16 symbols of the alphabet."""
    return len(text) == JOB_SYMBOLS and all(c in ALPHABET for c in text)
