"""DTLS 1.2 over the paths that ICE finds: our own end of the handshake, with a certificate for one connection.

The peer's certificate counts if its hash is what the peer's sealed description announced; who signed it
does not matter. The client need not wait for ICE: its first flight goes out along the likeliest ways at once,
and again when a way is found. So a connection takes two round trips from the answer on, with nothing before.

Source: RFC 6347; RFC 8827 section 6.5; RFC 8122 section 5 (fingerprints). OpenSSL knows no DTLS 1.3 yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL, crypto

from transfer.transports.inside_openssl import Records

if TYPE_CHECKING:
    from transfer.transports.ice import Ice

HASHES = {"sha-256": hashlib.sha256, "sha-384": hashlib.sha384, "sha-512": hashlib.sha512}
CIPHERS = b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA"
MEDIA = b"SRTP_AES128_CM_SHA1_80"
"""We have no media, but some ends (aiortc) insist on agreeing how they would be encrypted."""
LIFETIME = timedelta(days=30)
DATAGRAM = 1200
"""Bytes of a datagram of the handshake: they pass every path that WebRTC may use. Source: RFC 8831 section 5."""
REPEAT, REPEATS = 0.2, 5
"""Seconds after which a flight that nothing answers is said again, then twice as long each time; how often."""


@dataclass(frozen=True)
class Certificate:
    """A key and what it signed for itself: made for one connection, and forgotten with it."""

    key: ec.EllipticCurvePrivateKey
    signed: x509.Certificate

    @classmethod
    def make(cls) -> Certificate:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, secrets.token_hex(16))])
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(
            issuer_name=name,
            subject_name=name,
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - LIFETIME,  # clocks differ
            not_valid_after=now + LIFETIME,
        )
        return cls(key, builder.sign(key, hashes.SHA256()))

    @property
    def fingerprints(self) -> list[tuple[str, str]]:
        """(algorithm, value) as a description states them."""
        return [("sha-256", _fingerprint("sha-256", self.signed.public_bytes(Encoding.DER)))]


class State(enum.Enum):
    NEW = "new"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    CLOSED = "closed"
    """By either end."""
    REFUSED = "refused"
    """The handshake failed, or the peer's certificate is not the announced one."""


class Reader(Protocol):
    """What takes the data that arrives on a `Dtls`, and hears when more may be sent."""

    def packets_received(self, packets: list[bytes]) -> None:
        """In the order of their coming; all of one turn."""
        ...

    def writable(self) -> None: ...

    def ended(self) -> None:
        """No more will come: the peer said goodbye, or this end stopped."""
        ...


class Dtls:
    """One end of the encrypted connection. Packets are encrypted and decrypted many at a time.

    client: this end begins; to be settled before `start`. done: the handshake has ended, see `state`.
    reader: set it once connected; what comes before that waits.
    """

    def __init__(self, ice: Ice, certificate: Certificate, *, client: bool) -> None:
        self.state = State.NEW
        self.done = asyncio.Event()
        self._ice, self.client = ice, client
        self._reader: Reader | None = None
        self._expected: Sequence[tuple[str, str]] = ()
        self._arrived: list[bytes] = []
        self._flight: list[bytes] = []
        """Datagrams that the peer has not answered yet."""
        self._repeats = 0
        self._timer: asyncio.TimerHandle | None = None
        self._ssl = SSL.Connection(_context(certificate))
        self._ssl.set_ciphertext_mtu(DATAGRAM)
        self._records = Records(self._ssl)
        ice.take_records(self)

    @property
    def reader(self) -> Reader | None:
        return self._reader

    @reader.setter
    def reader(self, reader: Reader) -> None:
        self._reader = reader
        self.turn_ended()
        if self.state is State.CLOSED:
            reader.ended()

    def start(self, fingerprints: Sequence[tuple[str, str]]) -> None:
        """Begin the handshake. fingerprints: as the peer announced them."""
        self._expected = fingerprints
        self.state = State.CONNECTING
        (self._ssl.set_connect_state if self.client else self._ssl.set_accept_state)()
        self._go_on()

    def stop(self) -> None:
        """Say goodbye, if there is anyone to say it to. Idempotent."""
        if self.state in (State.CONNECTING, State.CONNECTED, State.REFUSED):
            with contextlib.suppress(SSL.Error):
                self._ssl.shutdown()
            self._end(State.CLOSED)

    @property
    def connected(self) -> bool:
        return self.state is State.CONNECTED

    @property
    def full(self) -> bool:
        """The system takes no more just now; `writable` says when."""
        return self._ice.way is not None and self._ice.way.full

    def may_fragment(self) -> None:
        if self._ice.way is not None:
            self._ice.way.may_fragment()

    def send_packets(self, packets: list[bytes]) -> None:
        """Encrypt them and send them, each in a record and a datagram of its own; those of one size in batches.

        After the end nothing happens: SCTP's timers cannot know better.
        """
        way = self._ice.way
        if self.state is not State.CONNECTED or way is None:
            return
        sealed, overhead = self._records.seal(packets)
        if not sealed:
            return
        at = first = 0
        while first < len(packets):
            size = len(packets[first])
            last = first + 1
            while last < len(packets) and len(packets[last]) == size:
                last += 1
            tail = len(packets[last]) + overhead if last < len(packets) and len(packets[last]) < size else 0
            end = at + (last - first) * (size + overhead) + tail
            way.send(sealed[at:end], size + overhead)
            at, first = end, last + bool(tail)

    # what Ice tells

    def records_received(self, data: bytes, size: int) -> bool:
        """Encrypted records of `size` bytes each, the last maybe shorter. Whether they were taken."""
        if self.state is not State.CONNECTED:
            return False
        if self._flight:
            self._settle()
        self._records.open(data, size, self._arrived)
        return True

    def datagram_received(self, data: bytes) -> None:
        """Anything else of DTLS: a flight of the handshake, an alert, or data that came early."""
        if self.state not in (State.CONNECTING, State.CONNECTED):
            return
        self._ssl.bio_write(data)
        if self.state is State.CONNECTING:
            self._go_on()
        else:
            self._read()
            self._flush()

    def turn_ended(self) -> None:
        """All that could be read in this turn was: pass it on together."""
        if self._arrived and self._reader is not None:
            arrived, self._arrived = self._arrived, []
            self._reader.packets_received(arrived)

    def writable(self) -> None:
        if self._reader is not None:
            self._reader.writable()

    def way_changed(self) -> None:
        """A way was found, or a better one: what is unanswered may have gone nowhere."""
        self._transmit()

    # the handshake

    def _go_on(self) -> None:
        try:
            self._ssl.do_handshake()
        except SSL.WantReadError:
            self._flush()
            return
        except SSL.Error:
            self._end(State.REFUSED)
            return
        if not self._is_expected():
            self._end(State.REFUSED)
            return
        self.state = State.CONNECTED
        self._flush()
        if self.client:
            self._settle()
        self._ice.reached.set()
        self.done.set()
        self._read()

    def _is_expected(self) -> bool:
        """All hashes that were announced fit, and at least one was that we know."""
        certificate = self._ssl.get_peer_certificate()
        if certificate is None:
            return False
        signed = crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)
        known = [(name.lower(), value.upper()) for name, value in self._expected if name.lower() in HASHES]
        return bool(known) and all(value == _fingerprint(name, signed) for name, value in known)

    def _read(self) -> None:
        """What OpenSSL holds besides the records that are opened in batches."""
        while self.state is State.CONNECTED:
            try:
                self._arrived.append(self._ssl.recv(1 << 16))
            except SSL.WantReadError:
                return
            except SSL.Error:  # the peer's goodbye, or an alert
                self._end(State.CLOSED)

    def _end(self, state: State) -> None:
        self._flush()
        self.state = state
        self._settle()
        self.done.set()
        if self._reader is not None:
            self.turn_ended()
            self._reader.ended()

    def _flush(self) -> None:
        """Send what OpenSSL has to say, as whole records in as few datagrams as they fit."""
        try:
            said = self._ssl.bio_read(1 << 16)
        except SSL.Error:
            return
        datagrams: list[bytes] = []
        at = start = 0
        while at < len(said):
            size = 13 + int.from_bytes(said[at + 11 : at + 13], "big")  # RFC 6347 section 4.1
            if at + size - start > DATAGRAM and at > start:
                datagrams.append(said[start:at])
                start = at
            at += size
        datagrams.append(said[start:at])
        self._settle()
        self._flight = datagrams
        self._repeats = 0
        self._transmit()
        self._repeat_later()

    def _transmit(self) -> None:
        ways = [self._ice.way] if self._ice.way is not None else self._ice.guesses()
        for way in ways:
            for datagram in self._flight:
                way.send(datagram, len(datagram))

    def _repeat_later(self) -> None:
        if self._repeats < REPEATS:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(REPEAT * (1 << self._repeats), self._repeat)

    def _repeat(self) -> None:
        """The same datagrams again: whoever has them drops them as repeated, so it costs little and breaks nothing.

        Where the peer's answer was lost, it repeats that itself; if it cannot, OpenSSL's own clock makes a new flight.
        """
        self._repeats += 1
        if self.state is State.CONNECTING and self._ssl.DTLSv1_get_timeout() == 0:
            with contextlib.suppress(SSL.Error):
                self._ssl.DTLSv1_handle_timeout()
            self._flush()
            return
        self._transmit()
        self._repeat_later()

    def _settle(self) -> None:
        """The peer has what was said last."""
        self._flight = []
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _context(certificate: Certificate) -> SSL.Context:
    context = SSL.Context(SSL.DTLS_METHOD)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_QUERY_MTU | SSL.OP_NO_RENEGOTIATION)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _accept)
    context.use_certificate(certificate.signed)
    context.use_privatekey(certificate.key)
    context.set_cipher_list(CIPHERS)
    context.set_tlsext_use_srtp(MEDIA)
    return context


def _accept(*_: Any) -> bool:
    """Whoever signed it: what counts is its hash."""
    return True


def _fingerprint(algorithm: str, certificate: bytes) -> str:
    """certificate: DER. Colons between the bytes."""
    return HASHES[algorithm](certificate).digest().hex(":").upper()
