"""What members of a room ask of the broker. As `transfer.api`: JSON over request-reply, every request idempotent.

A room is a durable mailbox of sealed tickets. Whoever holds its ticket is a member: every request but `room_new` shows the
room's token, and a wrong one is answered as a room that never was. Items are numbered in the order they came; numbers
grow, with gaps. A consumer is what has had some of them already: each user's own by its name, or, with `work`, one that
all members share by its name. It takes an item (for LEASE seconds, `hold` renews it), fetches it, and says that it had it.
"""

from __future__ import annotations

import msgspec

from transfer.api import Request

LEASE = 60.0
"""Seconds that a taken item is nobody else's, unless it is held on to."""
ROOM_PAGE = 256
"""Items in one answer."""
MAX_ITEM = 2048
"""Bytes of a sealed item, before base64: a page of them fits what NATS carries in one message (1 MB)."""
MAX_NAME = 512
"""Bytes of a room's sealed name."""
MAX_MARKED = 256
"""Items that one `room_mark` may name."""
MAX_REASON = 200
"""Characters of why an item failed."""
MAX_LIFE = 600.0
"""Seconds of a lock."""
MAX_WAIT = 20.0
"""Seconds that `room_list` waits for something new, at most."""


class RoomRequest(Request, frozen=True, kw_only=True):
    room: str
    token: str


class RoomNew(Request, frozen=True, kw_only=True):
    """verb `room_new`: the room's id is chosen by the client; a second one with the same hash by the same user succeeds.

    token_hash: as in `Create`. name: sealed, base64. tries: of a shared consumer, before an item is given up.
    """

    room: str
    token_hash: str
    name: str
    tries: int = 5


class RoomAbout(RoomRequest, frozen=True, kw_only=True):
    """verb `room_about`."""


class ConsumerLine(msgspec.Struct, frozen=True, kw_only=True):
    """One of a room's consumers. user: "" for one that is shared. left: items it has not had, those given up included.

    seen: when it last said something, seconds since 1970. held, given_up: numbers of items.
    """

    name: str
    user: str
    left: int
    held: list[int]
    given_up: dict[int, str]
    seen: float


class RoomInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Answers `room_new` and `room_about`. name: sealed, base64. items: how many there are. created: seconds since 1970."""

    room: str
    owner: str
    name: str
    created: float
    tries: int
    items: int
    consumers: list[ConsumerLine]


class RoomPut(RoomRequest, frozen=True, kw_only=True):
    """verb `room_put`: post a job of one's own that is stored; again gives the same number. sealed: base64.

    Raises (the answer): not found (room or job), conflict (the job is not stored), over quota (the room is full).
    """

    job: str
    sealed: str


class RoomPosted(msgspec.Struct, frozen=True):
    number: int


class RoomList(RoomRequest, frozen=True, kw_only=True):
    """verb `room_list`: items after a number, the oldest first, at most a page.

    consumer: only what this one has not had and what was not given up; "" all. work: it is the shared one of that name.
    wait: seconds to wait for something if there is nothing; the answer may be empty then.
    """

    consumer: str = ""
    work: bool = False
    after: int = 0
    wait: float = 0.0


class RoomItem(msgspec.Struct, frozen=True, kw_only=True):
    """user: who posted it, on the server's word. posted, expires: seconds since 1970. gone: its data is no more (expired,
    cancelled, or delivered as often as its sender allowed). busy: another holder has it until then; 0: nobody. failed: how
    often it failed for this consumer."""

    number: int
    job: str
    sealed: str
    user: str
    posted: float
    expires: float
    gone: bool = False
    busy: float = 0.0
    failed: int = 0


class RoomPage(msgspec.Struct, frozen=True):
    """more: there are others after `last`, the highest number looked at."""

    items: list[RoomItem]
    last: int
    more: bool


class RoomMark(RoomRequest, frozen=True, kw_only=True):
    """verb `room_mark`: what a consumer does with items, all in one step.

    holder: of this run, chosen by the client. take: to be held, where nobody else does. hold: keep on. drop: give back.
    had: done with, whoever holds them. failed: number to reason; given back, and given up after the room's `tries`
    if the consumer is shared. again: given-up ones are to be tried anew.
    """

    consumer: str
    holder: str
    work: bool = False
    take: list[int] = msgspec.field(default_factory=list)
    hold: list[int] = msgspec.field(default_factory=list)
    drop: list[int] = msgspec.field(default_factory=list)
    had: list[int] = msgspec.field(default_factory=list)
    failed: dict[int, str] = msgspec.field(default_factory=dict)
    again: list[int] = msgspec.field(default_factory=list)


class RoomMarked(msgspec.Struct, frozen=True):
    """held: what this holder holds now, and until when (seconds since 1970, the broker's clock)."""

    held: list[int]
    until: float


class RoomLock(RoomRequest, frozen=True, kw_only=True):
    """verb `room_lock`: what only one of the members' hosts does at a time. name: any word they agree on, hashed: 32 hex
    digits. holder: as of `RoomMark`. life: seconds until it is anybody's if it is not asked for again; 0 gives it back.
    """

    name: str
    holder: str
    life: float


class RoomLocked(msgspec.Struct, frozen=True):
    held: bool


class RoomLeave(RoomRequest, frozen=True, kw_only=True):
    """verb `room_leave`: forget the user's own consumer of that name."""

    consumer: str


class RoomRemove(RoomRequest, frozen=True, kw_only=True):
    """verb `room_remove`, who made it only: the room goes with its items and consumers; the jobs stay until they expire."""


class RoomDone(msgspec.Struct, frozen=True):
    pass
