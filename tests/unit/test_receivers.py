"""Who came in time is served, however late its turn; what the broker kept is believed only as far as it opens."""

from __future__ import annotations

import base64
import sys
from typing import Any, cast

import msgspec
import pytest

from transfer import receivers, wire
from transfer.errors import PeerAbsent, PeerLost
from transfer.events import Event, ignore
from transfer.meter import Meter
from transfer.model import FORMAT, ReceiptBody
from transfer.receivers import Receivers
from transfer.seal import Purpose, Sealer
from transfer.send import _Sender, _StartedAnew
from transfer.ticket import Ticket

SEALER = Sealer(Ticket("q" * 16, bytes(16)))
ROOT = bytes(32)
SEND = sys.modules["transfer.send"]
"""The module: `transfer.send` is the function."""
HELLO = wire.Hello(session=b"1" * 16, seq=0, user="u", receiver="r", routes=["webrtc"])


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        for module in (SEND, receivers):
            monkeypatch.setattr(module, "time", self)  # not time.monotonic itself, by which the loop lives

    def monotonic(self) -> float:
        return self.now


def those_who_come() -> Receivers:
    nobody = cast("Any", None)
    return Receivers(nobody, nobody, SEALER, lambda: ROOT, Meter(ignore), ignore)


async def test_who_came_while_another_was_served_is_served_after_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, come = Clock(monkeypatch), those_who_come()
    come.hellos.put_nowait(HELLO)
    assert await come.next_hello(clock.now - 1) is HELLO
    assert await come.next_hello(clock.now - 1) is None


def test_a_kept_receipt_that_is_no_base64_or_does_not_open_is_passed_over() -> None:
    come = those_who_come()
    good = SEALER.seal(Purpose.RECEIPT, 0, msgspec.msgpack.encode(ReceiptBody(FORMAT, "r", 0, 0, ROOT)))
    come.recall(["a", "\N{SNOWMAN}", "AAAA", base64.b64encode(good).decode()])
    assert list(come.receipts) == ["r"]


async def test_a_receipt_that_comes_before_its_digest_is_known_is_judged_once_that_is() -> None:
    roots = [b""]
    nobody = cast("Any", None)
    come = Receivers(nobody, nobody, SEALER, lambda: roots[-1], Meter(ignore), ignore)
    for receiver, digest in (("r", ROOT), ("other", b"x" * 32)):
        body = ReceiptBody(FORMAT, receiver, 0, 0, digest)
        come._take(SEALER.seal(Purpose.RECEIPT, 0, msgspec.msgpack.encode(body)))
    assert (list(come.early), come.receipts) == (["r", "other"], {})
    assert await come.next_hello(None) is None, "whoever waits hears of it"
    roots.append(ROOT)
    come.recall([])
    assert (come.early, list(come.receipts)) == ({}, ["r"])


@pytest.mark.parametrize("loss", [PeerLost("the peer is gone"), _StartedAnew()])
async def test_a_receiver_lost_after_the_wait_has_as_long_again_to_come_back(
    loss: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, told = Clock(monkeypatch), list[Event]()
    deadlines: list[float | None] = []
    sender = cast("Any", object.__new__(_Sender))
    sender._meter, sender._receivers = Meter(told.append), those_who_come()
    sender._job = type("Job", (), {"receipts": []})()

    async def next_hello(deadline: float | None) -> wire.Hello | None:
        deadlines.append(deadline)
        return HELLO if len(deadlines) == 1 else None

    async def serve(_hello: wire.Hello, _patience: float) -> None:
        clock.now += 100
        raise loss

    async def prepared() -> None:
        """No aiortc is needed here."""

    monkeypatch.setattr(SEND, "prepare", prepared)
    sender._receivers.next_hello, sender._serve = next_hello, serve
    with pytest.raises(PeerAbsent):
        await sender._through_peers("webrtc", 10.0, 1)
    assert deadlines == [1010.0, 1110.0]
