"""Keys from a ticket, and authenticated encryption with them.

A sealed message is: suite (1 byte) · nonce (12 random bytes) · ciphertext · tag (16 bytes). Its
associated data binds format version, suite, purpose, job and index, so that no message passes for
another. One key for each purpose, direction and suite: HKDF-SHA256 (RFC 5869), salt = job id.
At most 2^32 seals a key (NIST SP 800-38D section 8.3, random 96-bit nonces); a job has at most that
many chunks because their index is 32-bit, and every resend is a drop in that sea.
"""

from __future__ import annotations

import enum
import hashlib
import os
import time
from collections.abc import Callable
from functools import cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from transfer.errors import DamagedData
from transfer.model import FORMAT, Bytes
from transfer.ticket import RoomTicket, Ticket

NONCE, TAG = 12, 16
OVERHEAD = 1 + NONCE + TAG
"""Bytes that a seal adds."""


class Suite(enum.IntEnum):
    AES_256_GCM = 1
    CHACHA20_POLY1305 = 2


class Purpose(enum.Enum):
    """What a key is for; each is derived apart, so a message can never be replayed as another kind."""

    MANIFEST = "manifest"
    CHUNK = "chunk"
    TRAILER = "trailer"
    INDEX = "index"
    RECEIPT = "receipt"
    TO_RECEIVER = "signal to receiver"
    TO_SENDER = "signal to sender"
    TOKEN = "token"
    ROOM_ITEM = "room item"
    ROOM_NAME = "room name"


_CIPHERS: dict[Suite, Callable[[bytes], AESGCM | ChaCha20Poly1305]] = {
    Suite.AES_256_GCM: AESGCM,
    Suite.CHACHA20_POLY1305: ChaCha20Poly1305,
}


class Sealer:
    """Seals and opens everything of one job, or of one room. Safe to use from many threads at once.

    job: the id that the keys are bound to, of the job or of the room.

    The two signal directions have keys of their own, so nobody's words come back as the other's.
    """

    def __init__(self, ticket: Ticket | RoomTicket, suite: Suite | None = None) -> None:
        self.job = ticket.id
        self._secret = ticket.secret
        self._suite = suite
        self._ciphers: dict[tuple[Purpose, int], AESGCM | ChaCha20Poly1305] = {}

    def seal(self, purpose: Purpose, index: int, plain: Bytes) -> bytearray:
        """index: the frame's or segment's number, 0 where there is only one."""
        sealed = bytearray(len(plain) + OVERHEAD)
        with memoryview(sealed) as view:
            self.seal_into(purpose, index, plain, view)
        return sealed

    def seal_into(self, purpose: Purpose, index: int, plain: Bytes, sealed: memoryview) -> None:
        """As `seal`; sealed: OVERHEAD bytes longer than plain."""
        suite = self._suite or fastest_suite()
        nonce = os.urandom(NONCE)
        sealed[0], sealed[1 : 1 + NONCE] = suite, nonce
        bound = self._bound(purpose, suite, index)
        self._cipher(purpose, suite).encrypt_into(nonce, plain, bound, sealed[1 + NONCE :])

    def open(self, purpose: Purpose, index: int, sealed: Bytes) -> bytearray:
        """Raises DamagedData if it was not sealed with this ticket for this purpose and index."""
        plain = bytearray(max(0, len(sealed) - OVERHEAD))
        self.open_into(purpose, index, sealed, memoryview(plain))
        return plain

    def open_into(self, purpose: Purpose, index: int, sealed: Bytes, plain: memoryview) -> None:
        """As `open`; plain: OVERHEAD bytes shorter than sealed."""
        suite = sealed[0] if len(sealed) >= OVERHEAD else 0
        if suite not in _CIPHERS:
            raise DamagedData(f"a sealed {purpose.value} (number {index}) is cut off or of an unknown suite")
        view = memoryview(sealed)
        nonce, bound = bytes(view[1 : 1 + NONCE]), self._bound(purpose, suite, index)
        try:
            self._cipher(purpose, suite).decrypt_into(nonce, view[1 + NONCE :], bound, plain)
        except InvalidTag:
            raise DamagedData(f"a sealed {purpose.value} (number {index}) was altered on its way") from None

    def token(self) -> str:
        """What proves to the broker that one holds the ticket; it tells nothing about the other keys."""
        return self._derive(Purpose.TOKEN, 0, 32).hex()

    def token_hash(self) -> str:
        """What the broker stores instead of the token."""
        return hash_token(self.token())

    def _bound(self, purpose: Purpose, suite: int, index: int) -> bytes:
        return b"xfer/%d/%d/%b/%b/%d" % (FORMAT, suite, purpose.value.encode(), self.job.encode(), index)

    def _cipher(self, purpose: Purpose, suite: int) -> AESGCM | ChaCha20Poly1305:
        cipher = self._ciphers.get((purpose, suite))
        if cipher is None:
            cipher = _CIPHERS[Suite(suite)](self._derive(purpose, suite, 32))
            self._ciphers[purpose, suite] = cipher
        return cipher

    def _derive(self, purpose: Purpose, suite: int, length: int) -> bytes:
        info = b"xfer/%d/%b/%d" % (FORMAT, purpose.value.encode(), suite)
        return HKDF(SHA256(), length, salt=self.job.encode(), info=info).derive(self._secret)


def hash_token(token: str) -> str:
    """The broker's side of the comparison; the token has 256 bits, so a plain hash is enough."""
    return hashlib.sha256(token.encode()).hexdigest()


@cache
def fastest_suite() -> Suite:
    """AES-256-GCM, unless ChaCha20-Poly1305 is clearly faster here (no AES instructions). Takes about 1 ms, once."""
    block, nonce = bytes(1 << 17), bytes(NONCE)
    ciphers = {suite: make(bytes(32)) for suite, make in _CIPHERS.items()}
    seconds = dict.fromkeys(_CIPHERS, float("inf"))
    for _ in range(5):  # the quickest counts: the first is slow, and anything may interrupt one
        for suite, cipher in ciphers.items():
            start = time.perf_counter()
            cipher.encrypt(nonce, block, None)
            seconds[suite] = min(seconds[suite], time.perf_counter() - start)
    slow = seconds[Suite.AES_256_GCM] > 1.5 * seconds[Suite.CHACHA20_POLY1305]
    return Suite.CHACHA20_POLY1305 if slow else Suite.AES_256_GCM
