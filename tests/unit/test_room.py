"""A room's member, without a broker: what it makes of items, and the lock that keeps other hosts out."""

from __future__ import annotations

import asyncio
import base64
import math
from typing import Any, cast

import msgspec
import pytest
from msgspec.structs import replace

from transfer import room_lock
from transfer.broker_client import BrokerClient
from transfer.errors import BrokerAbsent, DamagedData, Locked, UnsupportedVersion
from transfer.room import Item, Member, Posted
from transfer.room_names import Room
from transfer.rooms_api import RoomItem
from transfer.seal import Purpose, Sealer
from transfer.ticket import RoomTicket, Ticket


class Broker:
    """Gives a lock once, and is away from then on: silent, or said to be."""

    user = "ann"

    def __init__(self, *, silent: bool) -> None:
        self.silent = silent
        self.given = False
        self.lost_after: list[float] = []

    async def room_lock(self, _sealer: object, _name: str, _holder: str, life: float) -> bool:
        if not self.given:
            self.given = True
            return True
        if not life:
            return False
        if not self.silent:
            raise BrokerAbsent("no broker")
        asked = asyncio.get_running_loop().time()
        try:
            await asyncio.Event().wait()
        finally:
            self.lost_after.append(asyncio.get_running_loop().time() - asked)
        raise AssertionError


def made_of(item: Item, job: str) -> Posted:
    """What a member makes of an item that stands for that job."""
    room = Room(name="r", ticket=RoomTicket.new(), context="")
    member = Member(cast(BrokerClient, cast(Any, Broker(silent=True))), room)
    sealed = base64.b64encode(
        Sealer(room.ticket).seal(Purpose.ROOM_ITEM, 0, msgspec.msgpack.encode(item))
    ).decode()
    return member._posted(RoomItem(number=1, job=job, sealed=sealed, user="bob", posted=1.0, expires=2.0))


@pytest.mark.parametrize(
    "field", [{"sent": math.nan}, {"sent": 1e300}, {"files": -1}, {"size": -1}, {"more": -1}, {"v": 2}]
)
def test_an_item_of_a_member_who_makes_no_sense_is_not_shown_as_if_it_did(field: dict[str, Any]) -> None:
    ticket = Ticket.new()
    assert made_of(Item.of(ticket, [b"a"], 1, 5), ticket.job).item is not None
    posted = made_of(replace(Item.of(ticket, [b"a"], 1, 5), **field), ticket.job)
    assert posted.item is None
    assert isinstance(posted.wrong, UnsupportedVersion)


def test_an_item_whose_ticket_is_of_another_job_is_damaged() -> None:
    posted = made_of(Item.of(Ticket.new(), [b"a"], 1, 5), Ticket.new().job)
    assert posted.item is None
    assert isinstance(posted.wrong, DamagedData)


@pytest.mark.parametrize("silent", [True, False])
async def test_a_lock_that_cannot_be_renewed_is_let_go_before_anybody_else_may_have_it(
    silent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room_lock, "LIFE", 1.0)
    broker = Broker(silent=silent)
    member = Member(
        cast(BrokerClient, cast(Any, broker)), Room(name="r", ticket=RoomTicket.new(), context="")
    )

    async def work() -> None:
        async with member.alone("night", wait=False):
            await asyncio.sleep(60)

    with pytest.raises(Locked, match="was lost"):
        await work()
    if silent:
        assert len(broker.lost_after) == 1, "asked a second time, when the time was up already"
