"""Who came in time is served, however late its turn; what the broker kept is believed only as far as it opens."""

from __future__ import annotations

import base64
from typing import Any, cast

import msgspec
import pytest

from transfer import receivers, wire
from transfer.events import ignore
from transfer.meter import Meter
from transfer.model import FORMAT, ReceiptBody
from transfer.receivers import Receivers
from transfer.seal import Purpose, Sealer
from transfer.ticket import Ticket

SEALER = Sealer(Ticket("q" * 16, bytes(16)))
ROOT = bytes(32)
HELLO = wire.Hello(session=b"1" * 16, seq=0, user="u", receiver="r", routes=["webrtc"])


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(receivers, "time", self)  # not time.monotonic itself, by which the loop lives

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
        come._take(bytes(SEALER.seal(Purpose.RECEIPT, 0, msgspec.msgpack.encode(body))))
    assert (list(come.early), come.receipts) == (["r", "other"], {})
    assert await come.next_hello(None) is None, "whoever waits hears of it"
    roots.append(ROOT)
    come.recall([])
    assert (come.early, list(come.receipts)) == ({}, ["r"])
