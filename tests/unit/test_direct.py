"""Who is served when, and what becomes of a lost connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from transfer import direct, wire
from transfer.direct import AT_ONCE, RETURN_SECONDS, Direct
from transfer.errors import PeerAbsent, PeerLost, XferError
from transfer.events import Event, Notice, RouteChosen
from transfer.hold import Hold
from transfer.meter import Meter
from transfer.model import FORMAT, ReceiptBody
from transfer.receivers import Receivers
from transfer.seal import Sealer
from transfer.ticket import Ticket

Act = Callable[["Stand", str], Awaitable[None]]


class Stand:
    """A sender whose sessions do what the test says: `acts`, one after another, for each receiver."""

    def __init__(self, **acts: list[Act]) -> None:
        self.told: list[Event] = []
        self.meter = Meter(self.told.append)
        self.log: list[str] = []
        self.busy = 0
        self.most = 0
        self._acts = acts
        nobody = cast("Any", None)
        sealer = Sealer(Ticket("q" * 16, bytes(16)))
        self.receivers = Receivers(nobody, nobody, sealer, lambda: bytes(32), self.meter, self.told.append)
        self.hold = Hold()
        self.direct = Direct(nobody, self.receivers, nobody, self.meter, nobody, None, self.hold, nobody)
        cast("Any", self.direct)._session = self._session

    def comes(self, *names: str) -> None:
        for name in names:
            self.receivers.hellos.put_nowait(
                wire.Hello(session=b"1" * 16, seq=0, user="u", receiver=name, routes=["webrtc"])
            )

    def moves(self, name: str, size: int = 1) -> None:
        self.direct._connected.add(name)
        self.meter.done += size

    @property
    def notices(self) -> list[str]:
        return [event.text for event in self.told if isinstance(event, Notice)]

    @property
    def chosen(self) -> list[str]:
        return [event.reason for event in self.told if isinstance(event, RouteChosen)]

    async def _session(self, hello: wire.Hello, _patience: float) -> None:
        self.busy += 1
        self.most = max(self.most, self.busy)
        self.log.append(f"{hello.receiver} begins")
        try:
            await self._acts[hello.receiver].pop(0)(self, hello.receiver)
            self.receivers.receipts[hello.receiver] = ReceiptBody(FORMAT, hello.receiver, 0, 0, bytes(32))
        finally:
            self.busy -= 1
            self.log.append(f"{hello.receiver} ends")


def takes(seconds: float) -> Act:
    async def act(stand: Stand, name: str) -> None:
        stand.moves(name)
        await asyncio.sleep(seconds)

    return act


def loses(error: XferError, *, moved: int = 1, then: tuple[float, str] | None = None) -> Act:
    """then: after so many seconds that receiver says hello."""

    async def act(stand: Stand, name: str) -> None:
        stand.moves(name, moved)
        if then is not None:
            asyncio.get_running_loop().call_later(then[0], stand.comes, then[1])
        raise error

    return act


async def waits(stand: Stand, name: str) -> None:
    stand.moves(name)
    await asyncio.Event().wait()


GONE = PeerLost("the peer is gone")


async def test_receivers_who_come_together_are_served_together() -> None:
    stand = Stand(a=[takes(0.2)], b=[takes(0.2)], c=[takes(0.2)])
    stand.comes("a", "b", "c")
    assert await stand.direct.serve(5.0, 3, store=True)
    assert stand.most == 3


async def test_who_comes_while_too_many_are_served_has_its_turn() -> None:
    names = [f"r{n}" for n in range(AT_ONCE + 2)]
    stand = Stand(**{name: [takes(0.05)] for name in names})
    stand.comes(*names)
    assert await stand.direct.serve(5.0, len(names), store=True)
    assert stand.most == AT_ONCE
    assert sorted(stand.receivers.receipts) == sorted(names)


async def test_who_is_under_way_when_the_first_is_done_is_served_to_its_end() -> None:
    stand = Stand(a=[takes(0.05)], b=[takes(0.3)])
    stand.comes("a", "b")
    assert await stand.direct.serve(5.0, None, store=True)
    assert sorted(stand.receivers.receipts) == ["a", "b"]


async def test_when_enough_have_it_the_others_are_let_go() -> None:
    stand = Stand(a=[takes(0.05)], b=[waits])
    stand.comes("a", "b")
    assert await stand.direct.serve(5.0, 1, store=True)
    assert stand.busy == 0


async def test_who_says_hello_again_is_served_anew() -> None:
    stand = Stand(a=[waits, takes(0)])
    stand.comes("a", "a")
    assert await stand.direct.serve(5.0, None, store=True)
    assert stand.log == ["a begins", "a ends", "a begins", "a ends"]


async def test_a_lost_connection_is_made_anew_if_its_receiver_comes_back() -> None:
    stand = Stand(a=[loses(GONE, then=(0.1, "a")), takes(0)])
    stand.comes("a")
    assert await stand.direct.serve(5.0, None, store=True)
    assert stand.notices == ["the receiver is back: connecting anew"]
    assert stand.chosen == []


async def test_the_store_takes_over_soon_if_the_receiver_does_not_come_back() -> None:
    stand = Stand(a=[loses(GONE)])
    stand.comes("a")
    began = time.monotonic()
    assert not await stand.direct.serve(60.0, None, store=True)
    assert RETURN_SECONDS <= time.monotonic() - began < 60.0
    assert stand.chosen == ["the peer is gone"]


async def test_a_connection_that_moved_nothing_is_not_made_again() -> None:
    stand = Stand(a=[loses(GONE, then=(0.05, "a")), loses(GONE, moved=0, then=(0.05, "a"))])
    stand.comes("a")
    assert not await stand.direct.serve(60.0, None, store=True)
    assert stand.log.count("a begins") == 2


async def test_the_others_are_served_on_before_the_store_takes_over() -> None:
    stand = Stand(a=[loses(GONE)], b=[takes(0.2)])
    stand.comes("a", "b")
    assert not await stand.direct.serve(60.0, 2, store=True)
    assert list(stand.receivers.receipts) == ["b"]


async def test_nobody_comes() -> None:
    assert not await Stand().direct.serve(0.1, None, store=True)
    with pytest.raises(PeerAbsent):
        await Stand().direct.serve(0.1, None, store=False)


async def test_nobodys_time_runs_out_during_a_pause() -> None:
    stand = Stand(a=[takes(0)])
    stand.hold.set(True)
    serving = asyncio.create_task(stand.direct.serve(0.1, None, store=True))
    await asyncio.sleep(1.0)
    assert not serving.done()
    stand.comes("a")
    stand.hold.set(False)
    async with asyncio.timeout(20):
        assert await serving
    assert stand.chosen == []


async def test_a_receiver_lost_after_the_wait_has_as_long_again_to_come_back() -> None:
    stand = Stand(a=[loses(GONE, then=(0.3, "a")), takes(0)])
    stand.comes("a")
    assert await stand.direct.serve(0.6, None, store=False)
    assert stand.notices[0] == "the peer is gone; waiting for the receiver to come back"


async def test_what_is_no_loss_of_a_peer_ends_it_at_once() -> None:
    stand = Stand(a=[loses(XferError("the source changed"))], b=[waits])
    stand.comes("b", "a")
    with pytest.raises(XferError, match="source changed"):
        await stand.direct.serve(5.0, 2, store=True)
    assert stand.busy == 0


@pytest.fixture(autouse=True)
def nothing_to_import(monkeypatch: pytest.MonkeyPatch) -> None:
    async def prepared() -> None:
        """No ICE is needed here."""

    monkeypatch.setattr(direct, "prepare", prepared)
