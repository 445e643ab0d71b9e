"""WebRTC connections: who is accepted, and deadlines that name their step."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable

import msgspec
import pytest
from ends import connects, host_address
from routes import SILENCE, set_up, talks, until

from transfer import wire
from transfer.errors import PeerLost, ProtocolError
from transfer.ice_urls import IceServers
from transfer.transports import link
from transfer.transports.data_channel import DataChannel
from transfer.transports.dtls import Certificate, Dtls
from transfer.transports.link import NO_NEWS
from transfer.transports.webrtc import DEADLINE, offer

Change = Callable[[wire.Description], wire.Description]


def altering(change: Change) -> Callable[[wire.AnySignal], list[wire.AnySignal]]:
    """Change what an offer or an answer says."""

    def meddle(signal: wire.AnySignal) -> list[wire.AnySignal]:
        if isinstance(signal, wire.Offer | wire.Answer):
            return [msgspec.structs.replace(signal, description=change(signal.description))]
        return [signal]

    return meddle


def replacing(**fields: object) -> Change:
    return lambda description: msgspec.structs.replace(description, **fields)


def expect(results: tuple[object, object], sentence: str) -> None:
    """Both ends gave up for that reason."""
    for result in results:
        assert isinstance(result, PeerLost)
        assert result.what == sentence


@pytest.mark.parametrize("liar", [0, 1])
async def test_a_certificate_that_was_not_announced_is_refused(liar: int) -> None:
    ends = talks()
    ends[liar].meddle = altering(replacing(fingerprints=Certificate.make().fingerprints))
    results = await set_up(*ends, deadline=1.0)
    deceived = results[1 - liar]
    assert isinstance(deceived, PeerLost)
    assert "certificate is not the announced one" in deceived.what
    await refused(results[liar])


async def refused(result: object) -> None:
    """Whose handshake was refused hears of it while it connects, or as the end of what it thought to be connected."""
    if isinstance(result, DataChannel):
        async with asyncio.timeout(SILENCE):
            with pytest.raises(PeerLost):
                await result.receive()
        await result.close()
    else:
        assert isinstance(result, PeerLost)


async def test_a_false_fingerprint_beside_a_true_one_is_refused() -> None:
    sender, receiver = talks()

    def spoil(description: wire.Description) -> wire.Description:
        false = ("sha-512", ":".join(["00"] * 64))
        return msgspec.structs.replace(description, fingerprints=[*description.fingerprints, false])

    receiver.meddle = altering(spoil)
    deceived, liar = await set_up(sender, receiver, deadline=1.0)
    assert isinstance(deceived, PeerLost)
    assert "certificate is not the announced one" in deceived.what
    await refused(liar)


@pytest.mark.parametrize(
    "fields",
    [
        {"fingerprints": []},
        {"fingerprints": [("md5", "AB")]},
        {"ufrag": ""},
        {"ufrag": "u" * 300},
        {"password": "short"},
        {"password": "p" * 300},
        {"setup": "nobody"},
        {"max_message": 10},
        {"init": b"x"},
        {"init": bytes(16)},
    ],
    ids=str,
)
@pytest.mark.parametrize("liar", [0, 1])
async def test_a_description_that_makes_no_sense_is_a_protocol_error(
    liar: int, fields: dict[str, object]
) -> None:
    ends = talks()
    ends[liar].meddle = altering(replacing(**fields))
    results = await set_up(*ends, deadline=0.5)
    assert isinstance(results[1 - liar], ProtocolError)
    assert isinstance(results[liar], PeerLost)


async def test_an_offer_that_nobody_answers_is_given_up_in_time() -> None:
    sender, _ = talks()
    started = time.monotonic()
    with pytest.raises(PeerLost, match="did not answer the offer in time"):
        await offer(sender, IceServers(), deadline=0.3)
    assert time.monotonic() - started < DEADLINE  # which is not the one that was given


async def test_no_path_is_given_up_in_time() -> None:
    sender, receiver = talks()
    sender.meddle = receiver.meddle = altering(replacing(candidates=[NOWHERE]))
    started = time.monotonic()
    expect(await set_up(sender, receiver, deadline=0.5), "no network path to the peer was found in time")
    assert time.monotonic() - started < DEADLINE


NOWHERE = "1 1 udp 1 192.0.2.77 9 typ host"


async def test_a_search_without_any_news_ends_long_before_the_deadline() -> None:
    sender, receiver = talks()
    sender.meddle = receiver.meddle = altering(replacing(candidates=[NOWHERE]))
    started = time.monotonic()
    expect(await set_up(sender, receiver, deadline=DEADLINE), "no network path to the peer was found in time")
    assert NO_NEWS <= time.monotonic() - started < DEADLINE


async def test_an_address_that_comes_late_prolongs_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "NO_NEWS", 1.0)
    ends = talks()
    for end in ends:
        end.meddle = altering(replacing(candidates=[NOWHERE]))
    searching = asyncio.create_task(set_up(*ends, deadline=DEADLINE))
    await until(lambda: all(end.said for end in ends))
    for number in range(4):
        await asyncio.sleep(0.3)
        told = time.monotonic()
        for end in ends:
            late = NOWHERE.replace(" 9 ", f" {number + 10} ")
            end.far.heard.put_nowait(wire.Candidate(session=b"", seq=number + 2, candidate=late))
    expect(await searching, "no network path to the peer was found in time")
    assert time.monotonic() - told >= 1.0, "the last of them began the time anew"


async def test_a_handshake_that_stalls_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dtls, "datagram_received", lambda *_: None)
    expect(await set_up(*talks(), deadline=0.5), "the encrypted connection to the peer was not made in time")


async def test_a_cancelled_offer_leaves_nothing() -> None:
    sender, _ = talks()
    offering = asyncio.create_task(offer(sender, IceServers()))
    await until(lambda: bool(sender.said))
    offering.cancel()
    await asyncio.gather(offering, return_exceptions=True)
    assert offering.cancelled()


async def test_strangers_cannot_disturb_the_handshake() -> None:
    """Alerts in the clear, from an address that is no candidate of the peer's, all the time that it takes."""
    alert = b"\x15\xfe\xfd" + bytes(8) + b"\x00\x02\x02\x28"
    ends = talks()
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as stranger:
        stranger.bind((host_address(), 0))

        def disturb(signal: wire.AnySignal) -> list[wire.AnySignal]:
            if isinstance(signal, wire.Offer | wire.Answer):
                for line in signal.description.candidates:
                    address, port = line.split()[4:6]
                    if ":" not in address:
                        for delay in range(200):
                            asyncio.get_running_loop().call_later(
                                delay / 1000, stranger.sendto, alert, (address, int(port))
                            )
            return [signal]

        for end in ends:
            end.meddle = disturb
        await connects(*ends)
        await asyncio.sleep(0.2)
