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
from transfer.errors import XferError
from transfer.folder_sink import FolderSink
from transfer.ledger import JobRow, Ledger
from transfer.lock import FileLock
from transfer.model import ReceiptBody
from transfer.paths import printable
from transfer.pipe import PipeSink
from transfer.sink import Sink, absolute
from transfer.ticket import Ticket


class FetchAgain(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for: enough to ask for it again. In the ledger's row.

    output: absolute, which need not be text; a final slash says that it is a folder. context: its name.
    """

    v: int = 1
    output: bytes
    overwrite: bool
    rename: bool
    unsafe_links: bool
    context: str

    @classmethod
    def unpack(cls, state: bytes) -> FetchAgain | None:
        """From the ledger's row. None for what another version of xfer wrote."""
        kept = _unpack(state)
        return None if kept is None else kept.again


def owed(state: bytes) -> ReceiptBody | None:
    """From the ledger's row: everything is in place, and only this receipt has not been given yet."""
    kept = _unpack(state)
    return None if kept is None or kept.published is None else kept.published.receipt


class _Published(msgspec.Struct, frozen=True, array_like=True):
    """What the ledger keeps once everything has its final name, until the receipt is with the broker."""

    receipt: ReceiptBody
    paths: list[bytes]  # names need not be UTF-8


class _Kept(msgspec.Struct, frozen=True):
    """The state of the ledger's row.

    name: of the temporary folder that is made once the manifest is known. sink: what finds it again, once it is
    there for certain, and until it is removed after everything was published.
    """

    again: FetchAgain
    name: str = ""
    sink: bytes = b""
    published: _Published | None = None


def _unpack(state: bytes) -> _Kept | None:
    try:
        kept = msgspec.msgpack.decode(state, type=_Kept)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None
    return kept if kept.again.v == 1 else None


def lock_path(locks: Path, job: str, key: bytes) -> Path:
    """What a run that fetches this job to that place holds. key: of the ledger's row."""
    return locks / f"fetch-{job}-{digest_of(key).hex()[:16]}.lock"


class ReceivedJob:
    """Where it goes: the sink, and the ledger's row that lets a later fetch carry on there.

    A pipe has no row: what went into it cannot be taken up again. receipt: set if an earlier run
    published everything and died before its receipt was given. receipt_given: or there is nobody to give
    it to. begun_with: the context that an earlier run used, if it was another one: only its servers know
    what has become of the job.
    """

    def __init__(
        self,
        ticket: Ticket,
        output: Path | str | BinaryIO,
        *,
        overwrite: bool,
        rename: bool,
        unsafe_links: bool,
        context: str = "",
    ) -> None:
        """context: its name."""
        self.ledger: Ledger | None = None
        self.row: JobRow | None = None
        self.receipt: ReceiptBody | None = None
        self.receipt_given = False
        self.begun_with: str | None = None
        self.paths: list[str] = []
        self.sink: Sink
        self.receiver = secrets.token_hex(8)
        self._findable = False
        self._stack = contextlib.ExitStack()
        if not isinstance(output, str | os.PathLike):
            self.sink = PipeSink(output)
            return
        self._again = FetchAgain(
            output=os.fsencode(absolute(os.fspath(output))),
            overwrite=overwrite,
            rename=rename,
            unsafe_links=unsafe_links,
            context=context,
        )
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
        lock = lock_path(config.state_dir() / "locks", ticket.job, key)
        self._stack.enter_context(FileLock(lock, f"fetches this ticket to {where}"))
        self.ledger = self._stack.enter_context(contextlib.closing(Ledger(config.state_dir() / "ledger.db")))
        row = self.ledger.find("fetch", key, ticket.job)
        kept = _unpack(self.ledger.state(row)) if row else None
        sink = begun = None
        if row is not None:
            begun = row.created
            self.receiver = row.receiver
            if kept is not None and kept.again.context != self._again.context:
                self.begun_with = kept.again.context
            if kept is not None and kept.published is not None:
                self.receipt = kept.published.receipt
                self.paths = [os.fsdecode(path) for path in kept.published.paths]
                left = FolderSink.resume(kept.sink, where_to, job=ticket.job)
                if left is not None:
                    with contextlib.suppress(XferError):  # a folder left over is no reason to fail
                        left.abandon()
            elif kept is not None and not kept.sink:
                FolderSink.forget(kept.name, where_to)
            elif kept is not None:
                sink = FolderSink.resume(
                    kept.sink,
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
        sink = sink or FolderSink(
            where_to, job=ticket.job, overwrite=overwrite, rename=rename, unsafe_links=unsafe_links
        )
        self.row = row or self.ledger.add(
            "fetch",
            ticket.job,
            key,
            ticket.secret,
            receiver=self.receiver,
            label=printable(where),
            state=msgspec.msgpack.encode(_Kept(self._again, sink.staging_name)),
            created=begun,
        )
        self.sink = sink

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
            kept = _Kept(self._again, sink=self.sink.state())
            self.ledger.set_state(self.row, msgspec.msgpack.encode(kept))
            self._findable = True

    def publish(self, receipt: ReceiptBody) -> None:
        """Final names for everything, then remember that only the receipt is owed. Blocking."""
        if self.receipt is None:
            self.paths = [str(path) for path in self.sink.publish()]
            self.receipt = receipt
            if self.ledger is not None and self.row is not None:
                published = _Published(receipt, [os.fsencode(path) for path in self.paths])
                kept = _Kept(self._again, sink=self.sink.state(), published=published)
                self.ledger.set_state(self.row, msgspec.msgpack.encode(kept))
            self.sink.close()  # now, while a kill leaves a row that finds its temporary folder

    def end(self) -> None:
        """Nothing is owed any more."""
        if self.ledger is not None and self.row is not None:
            self.ledger.end(self.row)

    def abandon(self) -> None:
        """Remove what was written: it can never become whole."""
        self.sink.abandon()
        self.end()
