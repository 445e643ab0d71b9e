"""The reset of streams: what is asked, how it is answered, and what a repeated or early request changes."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from transfer.sctp.packet import Parameter, parameter, parameters
from transfer.sctp.resets import DONE, LATER, STREAMS, Resets

OURS, THEIRS = 0xFFFFFFFF, 2000


def results(answers: list[bytes]) -> list[int]:
    return [struct.unpack("!II", body)[1] for answer in answers for _, body in parameters(answer)]


def asked(resets: Resets, now: float = 0.0) -> tuple[int, list[int]]:
    """The number of the request, and its streams."""
    request = resets.request(70, now, 1.0)
    assert request is not None
    ((kind, body),) = parameters(request)
    assert kind == Parameter.RESET_OUTGOING
    number, answered, last = struct.unpack_from("!III", body)
    assert (answered, last) == (THEIRS - 1, 70)
    return number, list(struct.unpack_from(f"!{(len(body) - 12) // 2}H", body, 12))


def answer(number: int, result: int) -> bytes:
    return parameter(Parameter.RESET_RESPONSE, struct.pack("!II", number, result))


def test_two_ends_understand_each_other() -> None:
    a, b = Resets(OURS, THEIRS), Resets(THEIRS, OURS)
    a.want(3)
    request = a.request(99, 0.0, 1.0)
    assert request is not None
    answers, ended = b.received(request, 99)
    assert (results(answers), ended, b.by_peer) == ([DONE], [], {3})
    assert a.received(answers[0], 0) == ([], [3])
    assert a.due is None
    assert a.by_peer == set()


def test_a_request_is_repeated_until_it_is_answered_and_the_next_waits() -> None:
    resets = Resets(OURS, THEIRS)
    assert resets.due is None
    resets.want(3)
    assert asked(resets) == (OURS, [3])
    resets.want(5)
    assert resets.request(70, 0.5, 1.0) is None
    assert resets.due == 1.0
    assert asked(resets, 1.0) == (OURS, [3])
    resets.received(answer(OURS - 1, DONE), 0)
    assert asked(resets, 2.0) == (OURS, [3])
    resets.received(answer(OURS, LATER), 0)
    assert asked(resets, 3.0) == (OURS, [3])
    resets.received(answer(OURS, DONE), 0)
    assert asked(resets, 3.0) == (0, [5]), "numbers wrap"


def test_many_streams_take_several_requests() -> None:
    resets = Resets(OURS, THEIRS)
    for stream in range(STREAMS + 1):
        resets.want(stream)
    number, streams = asked(resets)
    assert len(streams) == STREAMS
    resets.received(answer(number, DONE), 0)
    assert asked(resets)[1] == [STREAMS]


def test_streams_end_once_their_data_is_there_and_only_once() -> None:
    resets = Resets(OURS, THEIRS)
    request = parameter(Parameter.RESET_OUTGOING, struct.pack("!IIIHH", THEIRS, 0, 50, 3, 5))
    assert results(resets.received(request, 49)[0]) == [LATER]
    assert resets.by_peer == set()
    assert results(resets.received(request, 50)[0]) == [DONE]
    assert resets.by_peer == {3, 5}
    resets.by_peer.clear()
    assert results(resets.received(request, 60)[0]) == [DONE], "the answer was lost, and is said again"
    assert resets.by_peer == set()


def test_an_answer_and_a_request_may_share_a_chunk() -> None:
    resets = Resets(OURS, THEIRS)
    resets.want(3)
    number, _ = asked(resets)
    request = parameter(Parameter.RESET_OUTGOING, struct.pack("!IIIH", THEIRS, 0, 50, 4))
    answers, ended = resets.received(answer(number, DONE) + request, 50)
    assert (results(answers), ended, resets.by_peer) == ([DONE], [3], {4})


def test_a_request_that_names_no_stream_is_answered_too() -> None:
    """RFC 6525 section 4.1: it means all. Ours are closed one by one, but who is not answered would ask for ever."""
    resets = Resets(OURS, THEIRS)
    request = parameter(Parameter.RESET_OUTGOING, struct.pack("!III", THEIRS, 0, 50))
    assert results(resets.received(request, 50)[0]) == [DONE]
    assert results(resets.received(parameter(Parameter.RESET_OUTGOING, bytes(11)), 50)[0]) == []
    assert resets.by_peer == set()


@given(st.binary(max_size=200), st.lists(st.binary(max_size=20), max_size=5))
def test_whatever_comes_is_answered_in_bounds(noise: bytes, bodies: list[bytes]) -> None:
    resets = Resets(OURS, THEIRS)
    resets.want(1)
    for value in (noise, b"".join(parameter(13 + at % 4, body) for at, body in enumerate(bodies))):
        answers, _ = resets.received(value, 0)
        assert sum(map(len, answers)) <= len(value)
    assert len(resets.by_peer) <= 200


def test_there_is_no_request_while_nothing_is_wanted() -> None:
    assert Resets(OURS, THEIRS).request(70, 0.0, 1.0) is None


def test_requests_that_follow_each_other_are_granted_over_the_wrap_and_each_is_performed() -> None:
    """RFC 6525 section 4.4: 1 is performed, 6 is in progress."""
    assert (DONE, LATER) == (1, 6)
    resets = Resets(OURS, 0xFFFFFFFE)
    for number, stream in ((0xFFFFFFFE, 3), (0xFFFFFFFF, 4), (0, 5), (1, 6)):
        body = struct.pack("!IIIH", number, 0, 50, stream)
        assert results(resets.received(parameter(Parameter.RESET_OUTGOING, body), 50)[0]) == [1]
    assert resets.by_peer == {3, 4, 5, 6}
