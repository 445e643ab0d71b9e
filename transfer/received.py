"""The receiver's record of its job: the sink, and the ledger's row that lets a later fetch carry on there."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from typing import BinaryIO

import msgspec

from transfer import config
from transfer.codec import digest_of
from transfer.ledger import JobRow, Ledger
from transfer.lock import FileLock
from transfer.model import ReceiptBody
from transfer.paths import printable
from transfer.pipe import PipeSink
from transfer.sink import FolderSink, Sink
from transfer.ticket import Ticket

_BEGUN, _PUBLISHED = b"b", b"p"


class _Published(msgspec.Struct, frozen=True, array_like=True):
    """What the ledger keeps once everything has its final name, until the receipt is with the broker."""

    receipt: ReceiptBody
    paths: list[bytes]  # names need not be UTF-8


class ReceivedJob:
    """Where it goes: the sink, and the ledger's row that lets a later fetch carry on there.

    A pipe has no row: what went into it cannot be taken up again. receipt: set if an earlier run
    published everything and died before its receipt was given.
    """

    def __init__(
        self,
        ticket: Ticket,
        output: Path | str | BinaryIO,
        *,
        overwrite: bool,
        rename: bool,
        unsafe_links: bool,
    ) -> None:
        self.ledger: Ledger | None = None
        self.row: JobRow | None = None
        self.receipt: ReceiptBody | None = None
        self.paths: list[str] = []
        self.sink: Sink
        self.receiver = secrets.token_hex(8)
        self._findable = False
        self._stack = contextlib.ExitStack()
        if not isinstance(output, str | os.PathLike):
            self.sink = PipeSink(output)
            return
        try:
            self._open(ticket, output, overwrite=overwrite, rename=rename, unsafe_links=unsafe_links)
        except BaseException:
            self._stack.close()
            raise

    def _open(
        self, ticket: Ticket, output: Path | str, *, overwrite: bool, rename: bool, unsafe_links: bool
    ) -> None:
        where_to = os.fspath(output) or "."
        where = os.path.abspath(where_to)
        key = os.fsencode(where)
        lock = config.state_dir() / "locks" / f"fetch-{ticket.job}-{digest_of(key).hex()[:16]}.lock"
        self._stack.enter_context(FileLock(lock, f"fetches this ticket to {where}"))
        self.ledger = self._stack.enter_context(contextlib.closing(Ledger(config.state_dir() / "ledger.db")))
        row = self.ledger.find("fetch", key, ticket.job)
        state = self.ledger.state(row) if row else b""
        sink = None
        if row is not None:
            self.receiver = row.receiver
            if state[:1] == _PUBLISHED:
                published = msgspec.msgpack.decode(state[1:], type=_Published)
                self.receipt = published.receipt
                self.paths = [os.fsdecode(path) for path in published.paths]
            elif state[:1] == _BEGUN:
                sink = FolderSink.resume(
                    state[1:],
                    where_to,
                    job=ticket.job,
                    overwrite=overwrite,
                    rename=rename,
                    unsafe_links=unsafe_links,
                )
            self._findable = sink is not None
            if sink is None and self.receipt is None:
                self.ledger.end(row)
                row = None
        self.row = row or self.ledger.add(
            "fetch", ticket.job, key, ticket.secret, receiver=self.receiver, label=printable(where)
        )
        self.sink = sink or FolderSink(
            where_to, job=ticket.job, overwrite=overwrite, rename=rename, unsafe_links=unsafe_links
        )

    def __enter__(self) -> ReceivedJob:
        return self

    def __exit__(self, *_exc: object) -> None:
        try:
            if self._findable:
                self.sink.close()
            else:
                self.sink.abandon()  # interrupted before the ledger knew of it: no later run would find it
                if self.receipt is None:
                    self.end()
        finally:
            self._stack.close()

    def begun(self) -> None:
        """The sink knows the manifest: from here on an interrupted fetch can be taken up."""
        if self.ledger is not None and self.row is not None:
            self.ledger.set_state(self.row, _BEGUN + self.sink.state())
            self._findable = True

    def publish(self, receipt: ReceiptBody) -> None:
        """Final names for everything, then remember that only the receipt is owed. Blocking."""
        if self.receipt is None:
            self.paths = [str(path) for path in self.sink.publish()]
            self.receipt = receipt
            if self.ledger is not None and self.row is not None:
                state = msgspec.msgpack.encode(_Published(receipt, [os.fsencode(p) for p in self.paths]))
                self.ledger.set_state(self.row, _PUBLISHED + state)

    def end(self) -> None:
        """Nothing is owed any more."""
        if self.ledger is not None and self.row is not None:
            self.ledger.end(self.row)

    def abandon(self) -> None:
        """Remove what was written: it can never become whole."""
        self.sink.abandon()
        self.end()
