"""Data channels that are agreed on, opened and taken; control messages that make sense, and those that do not."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.simnet import End, Network, Path, Wire, pair
from transfer.errors import ProtocolError
from transfer.sctp.dcep import LAST_STREAM, Line, Open, Protocol, content, pack_open, unpack
from transfer.sctp.receiving import Message

ACK = b"\x02"


def connected() -> tuple[Network, End, End]:
    network = Network()
    path = Path(delay=0.001)
    a, b = pair(network, Wire(network, path), Wire(network, path), handshake=False)
    a.reading = b.reading = False
    return network, a, b


def heard(network: Network, end: End, line: Line) -> list[bytes]:
    """What came through a line within a second."""
    network.run(lambda: False, 1)
    messages = list(line.take())
    end.stir()
    return [content(message) for message in messages]


def say(end: End, stream: int, protocol: int, data: bytes) -> None:
    end.association.send(stream, protocol, data)
    end.stir()


# --- messages


def test_an_open_is_laid_out_as_the_rfc_says() -> None:
    packed = pack_open(Open("täg", "p", priority=0x0102))
    assert packed == bytes.fromhex("03 00 0102 00000000 0004 0001") + "tägp".encode()


@given(st.builds(Open, st.text(), st.text(), *[st.integers(0, most) for most in (0xFF, 0xFFFF, 0xFFFFFFFF)]))
def test_an_open_is_read_as_it_was_made(opening: Open) -> None:
    assert unpack(pack_open(opening)) == opening


def test_an_ack_is_read() -> None:
    assert unpack(ACK) is None


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x02\x00",
        b"\x03",
        b"\x04" + pack_open(Open("x"))[1:],
        pack_open(Open("label"))[:-1],
        pack_open(Open("label")) + b"x",
        pack_open(Open("ab")).replace(b"ab", b"\xff\xfe"),
        struct.pack("!BBHIHH", 3, 0, 0, 0, 0xFFFF, 0xFFFF),
    ],
)
def test_a_control_message_that_makes_no_sense_is_refused(message: bytes) -> None:
    with pytest.raises(ProtocolError):
        unpack(message)


@given(st.binary(max_size=64))
def test_whatever_comes_is_read_or_refused(message: bytes) -> None:
    for data in (message, b"\x03" + message):
        try:
            opening = unpack(data)
        except ProtocolError:
            continue
        assert opening is None or pack_open(opening) == data


def test_payload_protocols_bear_the_numbers_of_their_rfc_and_an_open_says_what_is_usual() -> None:
    """RFC 8831 section 8; RFC 8832 section 5.1: reliable, and of normal priority."""
    assert [kind.value for kind in Protocol] == [50, 51, 53, 56, 57]
    assert Open("x") == Open("x", "", 0, 256, 0)


# --- channels


def test_a_channel_that_was_agreed_needs_no_word() -> None:
    network, a, b = connected()
    ours, theirs = Line(a.association), Line(b.association)
    assert ours.opened
    assert theirs.opened
    ours.send(b"one")
    theirs.send(b"two")
    a.stir()
    b.stir()
    assert heard(network, b, theirs) == [b"one"]
    assert heard(network, a, ours) == [b"two"]


def test_one_end_opens_a_channel_and_the_other_takes_it() -> None:
    network, a, b = connected()
    ours, theirs = Line.opening(a.association, 7, "name"), Line(b.association, None)
    ours.send(b"at once")
    a.stir()
    assert not ours.opened
    assert not theirs.opened
    assert heard(network, b, theirs) == [b"at once"]
    assert theirs.opened
    assert theirs.stream == 7
    theirs.send(b"back")
    b.stir()
    assert heard(network, a, ours) == [b"back"]
    assert ours.opened


def test_an_empty_message_is_told_from_one_byte() -> None:
    network, a, b = connected()
    ours, theirs = Line(a.association), Line(b.association)
    for message in (b"", b"\0", b""):
        ours.send(message)
    assert a.association.buffered == 3, "one byte says nothing (RFC 8831 section 6.6)"
    a.stir()
    assert heard(network, b, theirs) == [b"", b"\0", b""]


def test_a_channel_that_one_end_closes_ends_after_all_that_was_sent() -> None:
    network, a, b = connected()
    ours, theirs = Line.opening(a.association, 7, "name"), Line(b.association, None)
    a.stir()
    heard(network, b, theirs)
    heard(network, a, ours)
    ours.send(b"last" * 50_000)
    assert ours.close()
    assert ours.close()
    assert a.association._resets is not None
    assert a.association._resets._wanted == [7], "once"
    a.stir()
    assert not theirs.ended
    assert heard(network, b, theirs) == [b"last" * 50_000]
    assert theirs.ended
    assert not ours.ended
    assert theirs.close()
    b.stir()
    heard(network, a, ours)
    assert ours.ended


def test_the_end_is_told_again_until_it_is_heard() -> None:
    network = Network()
    path = Path(delay=0.001)
    a, b = pair(network, Wire(network, path), Wire(network, path), handshake=False)
    a.reading = b.reading = False
    ours, theirs = Line.opening(a.association, 7, "name"), Line(b.association, None)
    a.stir()
    heard(network, b, theirs)
    heard(network, a, ours)
    a._wire.path = Path(loss=1.0)
    ours.close()
    a.stir()
    heard(network, b, theirs)
    assert not theirs.ended
    a._wire.path = path
    heard(network, b, theirs)
    assert theirs.ended
    assert a.association._resets is not None
    assert a.association._resets.due is None, "and then no more"


def test_what_was_agreed_is_not_told_to_end() -> None:
    network, a, b = connected()
    ours, theirs = Line(a.association), Line(b.association)
    assert not ours.close()
    a.stir()
    heard(network, b, theirs)
    assert not theirs.ended


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ((0, Protocol.STRING, b"text"), "sent text"),
        ((0, Protocol.EMPTY_STRING, b"\0"), "sent text"),
        ((0, 0, b"of no kind"), "sent text"),
        ((0, Protocol.CONTROL, ACK), "nobody opened"),
        ((0, Protocol.CONTROL, b"garbage"), "cannot be read"),
        ((0, Protocol.CONTROL, pack_open(Open("x"))), "second channel"),
        ((3, Protocol.CONTROL, pack_open(Open("x"))), "second channel"),
        ((3, Protocol.BINARY, b"astray"), "not open"),
    ],
)
def test_what_does_not_belong_on_an_agreed_channel_is_refused(
    said: tuple[int, int, bytes], complaint: str
) -> None:
    network, a, b = connected()
    line, messages = Line(b.association), list[Message]()
    say(a, 0, Protocol.BINARY, b"before")
    say(a, *said)
    network.run(lambda: False, 1)
    with pytest.raises(ProtocolError, match=complaint):
        messages.extend(line.take())
    assert [content(message) for message in messages] == [b"before"]


@pytest.mark.parametrize("kind", [0x01, 0x02, 0x80, 0x81, 0x82, 0x33])
def test_a_channel_that_may_lose_messages_is_refused(kind: int) -> None:
    network, a, b = connected()
    say(a, 1, Protocol.CONTROL, pack_open(Open("x", kind=kind)))
    with pytest.raises(ProtocolError, match="may lose"):
        heard(network, b, Line(b.association, None))


def test_a_channel_on_the_stream_that_is_none_is_refused() -> None:
    network, a, b = connected()
    say(a, LAST_STREAM + 1, Protocol.CONTROL, pack_open(Open("x")))
    with pytest.raises(ProtocolError, match="does not exist"):
        heard(network, b, Line(b.association, None))


def test_a_channel_on_the_last_stream_is_taken() -> None:
    network, a, b = connected()
    say(a, 65534, Protocol.CONTROL, pack_open(Open("x")))
    line = Line(b.association, None)
    assert heard(network, b, line) == []
    assert (line.stream, line.opened) == (65534, True)


def test_data_before_the_channel_is_open_is_refused() -> None:
    network, a, b = connected()
    say(a, 1, Protocol.BINARY, b"early")
    with pytest.raises(ProtocolError, match="not open"):
        heard(network, b, Line(b.association, None))


def test_an_ack_of_another_stream_opens_nothing() -> None:
    network, a, b = connected()
    line = Line.opening(a.association, 1, "x")
    say(b, 3, Protocol.CONTROL, ACK)
    with pytest.raises(ProtocolError, match="nobody opened"):
        heard(network, a, line)


def test_what_was_taken_gives_its_room_back() -> None:
    network, a, b = connected()
    receiver = b.association._receiver
    assert receiver is not None
    ours, theirs = Line.opening(a.association, 1, "x" * 500), Line(b.association, None)
    for message in (b"data" * 100, b""):
        ours.send(message)
    a.stir()
    network.run(lambda: False, 1)
    for message_ in theirs.take():
        b.association.free(message_)
    assert receiver._held == 0
