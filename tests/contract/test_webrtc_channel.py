"""The WebRTC data channel: whole messages in order, bounded, closed at once."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import sys

import aioice.stun
import pytest
from ends import part
from routes import SILENCE, vanish, webrtc_pair

from transfer.errors import PeerLost, ProtocolError, XferError
from transfer.transports import inside_aioice
from transfer.transports.data_channel import BUFFER_HIGH, MESSAGE, UNREAD, DataChannel


async def test_messages_arrive_whole_and_in_order() -> None:
    near, far = await webrtc_pair()
    sent = [bytes([n]) * (n * 997 % MESSAGE + 1) for n in range(60)]

    async def send() -> None:
        for message in sent:
            await near.send(message)

    _, got = await asyncio.gather(send(), _receive(far, len(sent)))
    assert got == sent
    await part(near, far)


async def _receive(channel: DataChannel, count: int) -> list[bytes]:
    return [await channel.receive() for _ in range(count)]


async def test_send_waits_while_too_much_is_under_way() -> None:
    near, far = await webrtc_pair()
    vanish(far)
    sent = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            while True:
                await near.send(bytes(MESSAGE))
                sent += MESSAGE
    assert sent <= (1 << 20) + (1 << 20)
    await part(near, far)


async def test_closing_one_end_is_heard_at_the_other_at_once() -> None:
    near, far = await webrtc_pair()
    hearing = asyncio.create_task(far.receive())
    await near.send(b"last words")
    await near.close()
    async with asyncio.timeout(SILENCE):
        assert await hearing == b"last words"
        with pytest.raises(PeerLost):
            await far.receive()
        with pytest.raises(PeerLost):
            await far.send(b"x")
    await far.close()


async def test_text_is_no_message() -> None:
    near, far = await webrtc_pair()
    near._association.send(0, 51, b"text")
    near._stir()
    with pytest.raises(ProtocolError, match="text"):
        await far.receive()
    await part(near, far)


async def test_messages_that_nobody_reads_are_bounded_and_not_lost() -> None:
    near, far = await webrtc_pair()
    count = (UNREAD + BUFFER_HIGH) // MESSAGE + 64
    sent = 0

    async def send() -> None:
        nonlocal sent
        for number in range(count):
            await near.send(number.to_bytes(4, "big") * (MESSAGE // 4))
            sent += 1

    sending = asyncio.create_task(send())
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(4):  # longer than a dead peer would be given
            await sending
    assert sent < count
    sending = asyncio.create_task(_send_on(near, sent, count)) if sending.done() else sending
    got = await _receive(far, count)
    assert [int.from_bytes(message[:4], "big") for message in got] == list(range(count))
    await sending
    await part(near, far)


async def _send_on(channel: DataChannel, first: int, end: int) -> None:
    for number in range(first, end):
        await channel.send(number.to_bytes(4, "big") * (MESSAGE // 4))


async def test_packets_that_make_no_sense_are_dropped() -> None:
    near, far = await webrtc_pair()
    garbage = [b"\0", bytes(12), bytes(100), bytes(16384), b"\x13\x88\x13\x88" + bytes(40)]
    near._link.dtls.send_packets(garbage)
    await near.send(b"still there")
    assert await far.receive() == b"still there"
    way = near._link.ice.way
    assert way is not None
    for junk in (b"\x17", b"\x17" * 2000, b"\x16" * 50, b"\x00" * 30, b"\xff" * 9, b"\x80\x60" + bytes(60)):
        way.send(junk, len(junk))
    await near.send(b"even now")
    assert await far.receive() == b"even now"
    await part(near, far)


async def test_packets_after_the_end_are_dropped_without_a_word() -> None:
    words: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: words.append(context))
    near, far = await webrtc_pair()
    for _ in range(20):
        await near.send(bytes(MESSAGE))
    await far._link.close()
    await near._link.close()
    near._stir()
    await asyncio.sleep(0.05)
    await part(near, far)
    assert words == []


async def test_another_version_of_aioice_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, inside_aioice.__name__)
    monkeypatch.setattr(aioice, "__version__", "9.0.0")
    with pytest.raises(XferError, match=r"aioice 9\.0\.0"):
        importlib.import_module(inside_aioice.__name__)
