"""Every way a transfer can end badly: who is to blame, one sentence, what to do next, an exit code.

XferError                          1   a bug, or something without a better name
├── Misuse                             what was asked for cannot be done
│   ├── UsageError                 2   an option or a combination that makes no sense
│   ├── MissingPath                2   a path to send is not there
│   ├── NotConfigured              2   no context says where the servers are
│   ├── DestinationExists          8   the target is there already
│   ├── NothingToDo                9   an empty selection, when asked to treat it as an error
│   ├── Locked                    11   another run holds this job, folder or ledger
│   └── MistypedTicket            12   not a ticket: its check characters do not fit
├── SourceTrouble                      what is to be sent
│   ├── PartialSource              3   some of it could not be read
│   ├── SourceChanged              6   a file changed while, or since, it was sent
│   └── CommandFailed              3   the producing command failed
├── PeerMisbehaved                     the other end, or whoever stands between
│   ├── DamagedData                6   bytes that do not open or do not match their digest
│   ├── UnsafeName                 6   a name that must not be written here
│   ├── CutShort                   6   the job says it is complete but its trailer is missing
│   ├── ProtocolError              6   a message out of turn, out of bounds or unreadable
│   └── UnsupportedVersion         1   made by a newer xfer
├── PartialDelivery                3   some items of a room could not be fetched
├── JobGone                        4   not found or expired (a wrong secret looks the same)
│   ├── JobCancelled               4   its owner ended it
│   └── RoomGone                   4   a room that is not there (a wrong secret looks the same)
├── Refused                            the operator's rules
│   ├── NotAllowed                 7   this user may not do that
│   ├── UntrustedServer            7   a server is not the one that it claims to be
│   └── OverQuota                  7   a limit is reached
├── Temporary                      5   run again: what is safe is kept
│   ├── BusUnreachable                 NATS does not answer
│   ├── BrokerAbsent                   NATS answers, no broker does
│   ├── StoreUnreachable               the S3 store does not answer or refuses
│   ├── ClockSkew                      the broker's clock is wrong
│   ├── PeerAbsent                     nobody came for the transfer
│   ├── PeerLost                       the peer stopped answering, and did not come back
│   └── DiskFull                       no room at the destination, or for the ledger
├── OutOfTime                     10   the deadline passed
└── Interrupted                128+n   a signal, after a checkpoint
"""

from __future__ import annotations

import errno
from typing import ClassVar

NO_ROOM = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})
"""What an OSError says when there is no room where something is written (Windows knows no quota)."""


EXIT_CODES = {
    "0": "done",
    "1": "a bug, or something without a better name",
    "2": "wrong usage, or a path that is not there",
    "3": "partial: some of the source could not be read, or some items of a room not be fetched, and the rest was"
    " done; or the command of `--from-command` failed, and the transfer is void",
    "4": "not found, expired, or cancelled by its owner; a wrong secret looks the same",
    "5": "temporary: run it again, it resumes (a full disk, no bus, no broker, no store, nobody came)",
    "6": "integrity: damaged, cut short, changed while it was sent, or an unsafe name",
    "7": "not allowed, over quota, or a server that is not the one it claims to be",
    "8": "the destination exists",
    "9": "nothing to do, for those who asked to be told (`--error-on-nothing` of resume, batch, and fetch from a room)",
    "10": "the deadline passed (`--deadline`), after a checkpoint",
    "11": "locked by another run: `up` on the same folder, two fetches of one ticket to one place, or from a room"
    " under one name, two batches of one folder to one room or under one `--lock`, a job or an idempotency"
    " key that another run goes on with or has just ended, or a job that is paused",
    "12": "not a ticket, or not an invite: mistyped",
    "128+n": "signal n, after a checkpoint; a second signal aborts",
}
"""The public contract: what each means, for people. A code that is not here must be read as a failure."""


class XferError(Exception):
    """Base of everything this library raises on purpose.

    Args:
        what: one sentence without a final full stop: what happened, to what.
        hint: what to do next, one sentence; the class has a default.

    retry_after: seconds that whoever refused wants to be left alone; None: it did not say.
    """

    code: ClassVar[int] = 1
    hint: ClassVar[str] = "run it again; if it persists, report it with the output of `xfer --version`"

    def __init__(self, what: str, *, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.next_step = hint if hint is not None else self.hint
        self.retry_after: float | None = None

    @property
    def exit_code(self) -> int:
        return self.code


class Misuse(XferError):
    """What was asked for cannot be done."""

    code = 2
    hint = "see `xfer --help`"


class UsageError(Misuse):
    """An option, or a combination of options, that makes no sense."""


class MissingPath(Misuse):
    """A path to send is not there."""

    hint = "check the spelling and the current folder"


class NotConfigured(Misuse):
    """No context says where the servers are."""

    hint = "log in with an invite (`xfer join`), name yours (`xfer context add`), or start local ones (`xfer up`)"


class DestinationExists(Misuse):
    """The target is there already."""

    code = 8
    hint = "choose another folder with -o, or pass --overwrite or --rename"


class NothingToDo(Misuse):
    """There was nothing to do, and the caller asked to hear of it."""

    code = 9
    hint = "check the selection"


class Locked(Misuse):
    """Another run holds this job, folder or ledger."""

    code = 11
    hint = "wait for the other run to end"


class MistypedTicket(Misuse):
    """Not a ticket: its check characters do not fit."""

    code = 12
    hint = "copy the whole ticket again; it starts with xfer1"


class SourceTrouble(XferError):
    """What is to be sent is not as it should be."""


class PartialSource(SourceTrouble):
    """Some of the source could not be read; the rest was sent."""

    code = 3
    hint = "mend the permissions and send those files again"


class SourceChanged(SourceTrouble):
    """A file changed while, or since, it was sent."""

    code = 6
    hint = "send it again once nothing writes to it"


class CommandFailed(SourceTrouble):
    """The producing command failed, so what it wrote is not complete."""

    code = 3
    hint = "mend the command and send again; the receiver was told that this one is void"


class PeerMisbehaved(XferError):
    """The other end, or whoever stands between, did what it must not."""

    code = 6
    hint = "ask the sender for a new ticket"


class DamagedData(PeerMisbehaved):
    """Bytes that do not open, or do not match their digest."""

    hint = "fetch again; if it stays so, ask the sender to send again"


class UnsafeName(PeerMisbehaved):
    """A name in the manifest that must not be written here."""

    hint = "ask the sender to rename it, or to leave it out with --exclude"


class CutShort(PeerMisbehaved):
    """The job claims to be complete, but its trailer is missing."""

    hint = "ask the sender to send again"


class ProtocolError(PeerMisbehaved):
    """A message out of turn, out of bounds or unreadable."""


class UnsupportedVersion(PeerMisbehaved):
    """Made by a newer xfer than this one."""

    code = 1
    hint = "upgrade xfer on this machine"


class PartialDelivery(XferError):
    """Some of a room's items could not be fetched; the others were. Each was told when it failed."""

    code = 3
    hint = "see what was said of each; the same command tries those again that can still be had"


class JobGone(XferError):
    """Not found or expired. A wrong secret looks the same on purpose."""

    code = 4
    hint = "ask the sender for a new ticket"


class JobCancelled(JobGone):
    """Its owner ended it, from this host or another."""

    hint = "send it again if that was not meant"


class RoomGone(JobGone):
    """A room was removed, or never was. A wrong secret looks the same on purpose."""

    hint = "ask whoever made the room for its ticket"


CANCELLED = "this transfer was cancelled by its owner"
"""What is said of it, also to receivers."""


def void(cancelled: bool) -> XferError:
    """To raise at a job that is void. cancelled: its owner made it so, not its sender's trouble."""
    if cancelled:
        return JobCancelled(CANCELLED, hint=JobGone.hint)
    return CutShort("the sender ended this transfer before it was complete")


class Refused(XferError):
    """The operator's rules say no."""

    code = 7
    hint = "ask whoever runs the broker"


class NotAllowed(Refused):
    """This user may not do that."""


class UntrustedServer(Refused):
    """A server is not the one that it claims to be: its certificate, or the lack of one, says so. Nothing was sent to it."""

    hint = "ask whoever runs it for a new invite; if nothing was changed there, somebody stands between"


class OverQuota(Refused):
    """A limit is reached."""

    hint = "see `xfer usage`, and ask whoever runs the broker if you need more"


class Temporary(XferError):
    """Run the same command again: what is safe is kept."""

    code = 5
    hint = "run the same command again"


class BusUnreachable(Temporary):
    """NATS does not answer."""

    hint = "start the local servers with `xfer up`, or check the context with `xfer context show`"


class BrokerAbsent(Temporary):
    """NATS answers, no broker does."""

    hint = "start one with `xfer up` or `xfer broker`"


class StoreUnreachable(Temporary):
    """The S3 store does not answer, or refuses."""

    hint = "check that the store runs and that its address is reachable from here, then run the same command again"


class ClockSkew(Temporary):
    """The broker's clock is wrong, so the store refuses what it signs."""

    hint = "set the clock of the broker's host, then run the same command again"


class PeerAbsent(Temporary):
    """Nobody came for the transfer."""

    hint = "start `xfer fetch` on the other side and run this again, or drop `--via webrtc`"


class PeerLost(Temporary):
    """The peer stopped answering, or the connection to it failed.

    Not the end while the peer may come back, or the store may take over.
    """

    hint = "run both commands again, or drop `--via webrtc`; what has arrived is kept"


class DiskFull(Temporary):
    """No room at the destination, or for the ledger."""

    hint = "free some space and run the same command again; what has arrived is kept"


class OutOfTime(XferError):
    """The deadline passed."""

    code = 10
    hint = "run the same command again with more time"


class Interrupted(XferError):
    """A signal arrived; what was safe is kept."""

    hint = "run the same command again to carry on"

    def __init__(self, signum: int, *, hint: str | None = None) -> None:
        super().__init__("interrupted", hint=hint)
        self.signum = signum

    @property
    def exit_code(self) -> int:
        return 128 + self.signum
