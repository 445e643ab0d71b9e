"""One run of one consumer, as the room knows it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine, Sequence
from functools import partial
from typing import NamedTuple

from transfer.room import Member, Posted
from transfer.rooms_api import ConsumerLine, RoomMarked


class Consumer(NamedTuple):
    """work: it is shared by all members. holder: this run at the broker, the same for the next one on this host, which so
    has at once what a killed one held.

    Raises (any call): as `Member`.
    """

    member: Member
    name: str
    holder: str
    work: bool

    def items(self, after: int, wait: float) -> AsyncGenerator[Posted, None]:
        """What it has not had, from the number behind `after` on."""
        return self.member.items(self.name, work=self.work, after=after, wait=wait)

    async def standing(self) -> tuple[int, ConsumerLine | None]:
        """How many items lie in the room, and what it knows of this consumer; None if it has not seen it before."""
        user = "" if self.work else self.member.user
        info = await self.member.about()
        ours = (line for line in info.consumers if (line.name, line.user) == (self.name, user))
        return info.items, next(ours, None)

    async def take(self, number: int) -> bool:
        """Whether it is ours now: somebody else may have been quicker."""
        return number in (await self._mark(take=[number])).held

    async def hold(self, number: int) -> None:
        await self._mark(hold=[number])

    async def drop(self, number: int) -> None:
        await self._mark(drop=[number])

    async def had(self, numbers: Sequence[int]) -> None:
        """At most `rooms_api.MAX_MARKED` of them."""
        await self._mark(had=numbers)

    async def failed(self, number: int, why: str) -> None:
        await self._mark(failed={number: why})

    @property
    def _mark(self) -> partial[Coroutine[None, None, RoomMarked]]:
        return partial(self.member.mark, self.name, self.holder, work=self.work)
