"""How a batch's orders reach their room: what a run asks of whoever sends."""

from __future__ import annotations

from typing import Protocol

from transfer.batch.state import Order
from transfer.errors import (
    BrokerAbsent,
    BusUnreachable,
    ClockSkew,
    DiskFull,
    NotConfigured,
    Refused,
    RoomGone,
    StoreUnreachable,
)
from transfer.ticket import Ticket

EVERYBODYS = (
    NotConfigured,
    Refused,
    RoomGone,
    BusUnreachable,
    BrokerAbsent,
    StoreUnreachable,
    ClockSkew,
    DiskFull,
)
"""Troubles that the next file would have, too: the run ends with the first of them, and what is under way ends first."""


class Sender(Protocol):
    """How an order reaches the room. Calls run at once, as many as `Asked.concurrency` says; cancelling is a checkpoint."""

    async def send(self, order: Order) -> None:
        """Send these very files, under `order.ticket`; returns once all of it is stored and posted. Idempotent.

        With `order.again` an earlier run has begun it, and perhaps ended it: then nothing is sent, only made sure of.

        Raises:
            SourceChanged: a file's facts are not those in the order (any more); the job was not completed.
            JobGone: it was begun before, and can never be complete any more.
            XferError: of this order only; or one of EVERYBODYS.
        """

    async def recover(self, order: Order) -> bool:
        """End an order without its files. True: all of it was stored, and is posted now; False: it is void. Idempotent.

        Raises XferError if neither could be made sure of.
        """

    async def receipt(self, ticket: Ticket) -> float | None:
        """When the first receipt of that job came (seconds since 1970); None: not yet.

        Raises JobGone if there is no such job any more; XferError.
        """
