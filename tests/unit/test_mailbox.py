"""The mailbox: what opens, is new and in order gets through, to the right ear; all else is dropped."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

import msgspec
import pytest
from nats.errors import ConnectionClosedError, FlushTimeoutError, NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError

from transfer import wire
from transfer.broker_client import Patience
from transfer.bus import api_subject, inbox_prefix, peer_subject, request
from transfer.errors import BrokerAbsent, BusUnreachable
from transfer.mailbox import SESSIONS_REMEMBERED, Conversation, Mailbox
from transfer.seal import Purpose, Sealer
from transfer.sturdy import SturdyClient
from transfer.ticket import Ticket

TICKET = Ticket("q" * 16, bytes(16))
S1, S2 = b"1" * 16, b"2" * 16
DESCRIPTION = wire.Description("u", "p", [], [], "active", bytes(16))
QUEUE = 256


@dataclass
class Message:
    data: bytes


class Bus:
    """Subjects and who listens there, in one process; has the three calls a mailbox makes."""

    def __init__(self) -> None:
        self.ears: dict[str, list[Callable[[Any], Awaitable[None]]]] = defaultdict(list)
        self.said: list[tuple[str, bytes]] = []
        self.lost: list[Exception] = []

    async def subscribe(self, subject: str, cb: Callable[[Any], Awaitable[None]]) -> Subscription:
        self.ears[subject].append(cb)
        return Subscription(self, subject, cb)

    async def flush(self, within: float) -> None:
        """Nothing is under way here, but for what `lost` says."""
        if self.lost:
            raise self.lost.pop()

    async def publish(self, subject: str, data: bytes) -> None:
        self.said.append((subject, data))
        for ear in list(self.ears[subject]):
            await ear(Message(data))


@dataclass
class Subscription:
    bus: Bus
    subject: str
    ear: Callable[[Any], Awaitable[None]]

    async def unsubscribe(self) -> None:
        self.bus.ears[self.subject].remove(self.ear)


def mailbox(bus: Bus, user: str, *, sender: bool, ticket: Ticket = TICKET) -> Mailbox:
    hears, says = Purpose.TO_SENDER, Purpose.TO_RECEIVER
    hears, says = (hears, says) if sender else (says, hears)
    return Mailbox(cast(Any, bus), user, Sealer(ticket), hears=hears, says=says)


class Pair:
    """A sender and a receiver that hear each other."""

    def __init__(self) -> None:
        self.bus = Bus()
        self.sender = mailbox(self.bus, "sam", sender=True)
        self.receiver = mailbox(self.bus, "rita", sender=False)


@pytest.fixture
async def pair() -> Pair:
    made = Pair()
    await made.sender.open()
    await made.receiver.open()
    return made


def waiting(box: Mailbox) -> list[wire.AnySignal]:
    """All that `next` would give without waiting."""
    found = []
    while not box._queue.empty():
        found.append(box._queue.get_nowait())
    return found


def heard(talk: Conversation) -> list[wire.AnySignal]:
    found = []
    while not talk.heard.empty():
        found.append(talk.heard.get_nowait())
    return found


def hello(session: bytes, seq: int) -> wire.Hello:
    return wire.Hello(session=session, seq=seq, user="rita", receiver="r", routes=["webrtc"])


def test_subjects_name_the_user_who_alone_may_listen_there() -> None:
    assert peer_subject("u", "j") == "xfer.peer.u.j"
    assert api_subject("u", "create") == "xfer.api.u.create"
    assert inbox_prefix("u") == "_INBOX_u"


class Connected:
    """A connection whose requests all end like this."""

    is_connected = True

    def __init__(self, end: Exception) -> None:
        self._end = end

    async def request(self, *_args: object, timeout: float) -> None:
        raise self._end


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (NatsTimeoutError(), TimeoutError),
        (NoRespondersError(), BrokerAbsent),
        (ConnectionClosedError(), BusUnreachable),
        (ConnectionResetError(), BusUnreachable),
    ],
    ids=["no answer", "no broker", "closed", "reset"],
)
async def test_a_request_tells_silence_from_an_absent_broker_and_from_a_lost_connection(
    end: Exception, told: type[Exception]
) -> None:
    with pytest.raises(told):
        await request(cast(Any, Connected(end)), "subject", b"", 1.0)


async def test_a_bus_that_goes_away_while_a_mailbox_opens_is_ridden_out_and_heard_once() -> None:
    bus = Bus()
    bus.lost = [FlushTimeoutError(), ConnectionClosedError()]
    box = mailbox(bus, "sam", sender=True)
    await box.listen(Patience(20))
    assert [len(ears) for ears in bus.ears.values()] == [1]
    bus.lost = [FlushTimeoutError()]
    with pytest.raises(BusUnreachable, match="flush timeout"):
        await mailbox(bus, "rita", sender=False).listen(Patience(0))


async def test_a_pong_that_comes_after_its_flush_gave_up_ends_no_read_loop() -> None:
    client = SturdyClient()
    late, due = asyncio.Future[bool](), asyncio.Future[bool]()
    late.cancel()
    client._pongs = [late, due]
    await client._process_pong()
    assert not due.done()
    await client._process_pong()
    assert due.result()


async def test_a_hello_reaches_the_sender_and_the_offer_the_receiver(pair: Pair) -> None:
    mine = pair.receiver.converse(S1, "sam")
    await mine.say(wire.Hello, user="rita", receiver="r", routes=["webrtc"])
    assert await pair.sender.next() == hello(S1, 0)
    theirs = pair.sender.converse(S1, "rita")
    await theirs.say(wire.Offer, description=DESCRIPTION)
    assert await pair.receiver.next() == wire.Offer(session=S1, seq=0, description=DESCRIPTION)
    await mine.say(wire.Answer, description=DESCRIPTION)
    await mine.say(wire.Candidate, candidate="c")
    assert [type(await theirs.hear()) for _ in range(2)] == [wire.Answer, wire.Candidate]
    assert waiting(pair.sender) == waiting(pair.receiver) == []


async def test_nothing_on_the_bus_tells_what_is_said(pair: Pair) -> None:
    await pair.receiver.converse(S1, "sam").say(wire.Hello, user="rita", receiver="r", routes=["webrtc"])
    [(subject, data)] = pair.bus.said
    assert subject == f"xfer.peer.sam.{TICKET.job}"
    assert b"rita" not in data
    assert b"webrtc" not in data


async def test_a_conversation_hears_only_its_own_session(pair: Pair) -> None:
    first, second = pair.sender.converse(S1, "rita"), pair.sender.converse(S2, "rita")
    await pair.receiver.publish("sam", wire.Candidate(session=S2, seq=0, candidate="two"))
    await pair.receiver.publish("sam", wire.Candidate(session=S1, seq=0, candidate="one"))
    assert heard(first) == [wire.Candidate(session=S1, seq=0, candidate="one")]
    assert heard(second) == [wire.Candidate(session=S2, seq=0, candidate="two")]


async def test_what_is_no_set_up_goes_to_next_even_of_a_session_that_talks(pair: Pair) -> None:
    talk = pair.sender.converse(S1, "rita")
    await pair.receiver.publish("sam", wire.Receipted(session=S1, seq=0, sealed=b"r"))
    await pair.receiver.publish("sam", hello(S1, 1))
    assert [type(s) for s in waiting(pair.sender)] == [wire.Receipted, wire.Hello]
    assert heard(talk) == []


async def test_set_up_of_a_session_nobody_talks_in_goes_to_next(pair: Pair) -> None:
    await pair.receiver.publish("sam", wire.Answer(session=S1, seq=0, description=DESCRIPTION))
    assert [type(s) for s in waiting(pair.sender)] == [wire.Answer]


async def test_a_replayed_or_late_signal_is_dropped(pair: Pair) -> None:
    for seq in (0, 1, 1, 0, 5, 4, 5, 6):
        await pair.receiver.publish("sam", hello(S1, seq))
    assert [s.seq for s in waiting(pair.sender)] == [0, 1, 5, 6]
    for _subject, data in list(pair.bus.said):  # whoever listens on the bus says it all again
        await pair.bus.publish(peer_subject("sam", TICKET.job), data)
    assert waiting(pair.sender) == []


async def test_a_negative_number_is_dropped(pair: Pair) -> None:
    await pair.receiver.publish("sam", hello(S1, -1))
    assert waiting(pair.sender) == []


async def test_sessions_count_apart(pair: Pair) -> None:
    for session in (S1, S2):
        await pair.receiver.publish("sam", hello(session, 0))
    assert [s.session for s in waiting(pair.sender)] == [S1, S2]


async def test_ones_own_words_sent_back_are_dropped(pair: Pair) -> None:
    await pair.sender.publish("rita", wire.UseStore(session=S1, seq=0, segments=1))
    [(_, data)] = pair.bus.said
    await pair.bus.publish(peer_subject("sam", TICKET.job), data)
    assert waiting(pair.sender) == []
    assert len(waiting(pair.receiver)) == 1


async def test_another_tickets_signals_are_dropped(pair: Pair) -> None:
    stranger = mailbox(pair.bus, "eve", sender=False, ticket=Ticket(TICKET.job, b"x" * 16))
    await stranger.publish("sam", hello(S1, 0))
    assert waiting(pair.sender) == []


async def test_garbage_is_dropped_and_what_comes_after_it_is_heard(pair: Pair) -> None:
    sealer = Sealer(TICKET)
    subject = peer_subject("sam", TICKET.job)
    newer = {"t": "hello", "v": 9, "session": S1, "seq": 0}
    greeting = msgspec.msgpack.encode(hello(S1, 0))
    nested = bytes([greeting[0] + 1]) + greeting[1:] + b"\xa1x" + b"\x91" * 5000
    unreadable = (b"", b"\xc1", b"\x80", msgspec.msgpack.encode(newer), nested)
    garbage = [b"", b"x", bytes(40), bytes(wire.MAX_SIGNAL + 1)]
    garbage += [bytes(sealer.seal(Purpose.TO_SENDER, 0, plain)) for plain in unreadable]
    garbage += [wire.seal_signal(sealer, Purpose.TO_SENDER, hello(b"short", 0))]
    for data in garbage:
        await pair.bus.publish(subject, data)
    await pair.receiver.publish("sam", hello(S1, 0))
    assert waiting(pair.sender) == [hello(S1, 0)]


async def test_a_flood_is_dropped_beyond_the_queue_and_hearing_goes_on(pair: Pair) -> None:
    for seq in range(QUEUE + 50):
        await pair.receiver.publish("sam", hello(S1, seq))
    assert len(waiting(pair.sender)) == QUEUE
    await pair.receiver.publish("sam", hello(S1, QUEUE + 50))
    assert len(waiting(pair.sender)) == 1


async def test_only_so_many_sessions_are_remembered(pair: Pair) -> None:
    for number in range(SESSIONS_REMEMBERED + 10):
        await pair.receiver.publish("sam", hello(number.to_bytes(16, "big"), 0))
        waiting(pair.sender)
    assert len(pair.sender._last) == SESSIONS_REMEMBERED
    assert (0).to_bytes(16, "big") not in pair.sender._last


async def test_a_session_in_use_is_not_the_one_forgotten(pair: Pair) -> None:
    for number in range(SESSIONS_REMEMBERED + SESSIONS_REMEMBERED // 2):
        if number in (0, SESSIONS_REMEMBERED - 10):
            await pair.receiver.publish("sam", hello(S1, number))
        await pair.receiver.publish("sam", hello(number.to_bytes(16, "big"), 0))
        waiting(pair.sender)
    await pair.receiver.publish("sam", hello(S1, SESSIONS_REMEMBERED - 10))
    assert waiting(pair.sender) == []


async def test_a_closed_conversation_hears_no_more_and_a_newer_one_is_left_alone(pair: Pair) -> None:
    old = pair.sender.converse(S1, "rita")
    new = pair.sender.converse(S1, "rita")
    old.close()
    await pair.receiver.publish("sam", wire.Candidate(session=S1, seq=0, candidate="c"))
    assert (len(heard(old)), len(heard(new))) == (0, 1)
    new.close()
    await pair.receiver.publish("sam", wire.Candidate(session=S1, seq=1, candidate="c"))
    assert heard(new) == []
    assert len(waiting(pair.sender)) == 1


async def test_a_conversation_numbers_what_it_says(pair: Pair) -> None:
    talk = pair.sender.converse(S1, "rita")
    for _ in range(3):
        await talk.say(wire.UseStore, segments=1)
    assert [s.seq for s in waiting(pair.receiver)] == [0, 1, 2]


async def test_a_closed_mailbox_hears_nothing_and_closes_twice(pair: Pair) -> None:
    await pair.sender.close()
    await pair.sender.close()
    await pair.receiver.publish("sam", hello(S1, 0))
    assert waiting(pair.sender) == []


async def test_next_waits_until_there_is_something(pair: Pair) -> None:
    listening = asyncio.create_task(pair.sender.next())
    await asyncio.sleep(0)
    assert not listening.done()
    await pair.receiver.publish("sam", hello(S1, 0))
    assert await listening == hello(S1, 0)
