"""SCTP between two ends in a simulated network: exact whatever the link does, and never stuck."""

from __future__ import annotations

import random
import struct

import pytest

from tests.simnet import End, Network, Path, Wire, pair, transfer
from transfer.sctp import packet as wire
from transfer.sctp.association import Association, State
from transfer.sctp.liveness import DEAD, QUIET
from transfer.sctp.packet import BEGIN, DATA_HEADER, END, Header, Parameter, Type
from transfer.sctp.pmtu import LEAST

LAN = Path(delay=0.001)


def connected(path: Path = LAN, seed: int = 1, **options: object) -> tuple[Network, End, End]:
    network = Network(seed)
    a, b = pair(network, Wire(network, path), Wire(network, path), handshake=False, **options)  # type: ignore[arg-type]
    return network, a, b


def say(end: End, *messages: bytes) -> None:
    for message in messages:
        end.association.send(0, 53, message)
    end.stir()


def forged(to: End, *chunks: bytes) -> bytes:
    """A packet that `to` takes for one of its peer."""
    return Header(5000, 5000, to.association.init.tag).packet(*chunks)


def noise(seed: int) -> Path:
    seeded = random.Random(seed)
    rate = 10 ** seeded.uniform(5.7, 8.5)
    delay = 10 ** seeded.uniform(-4, -1)
    return Path(
        rate=rate,
        delay=delay,
        queue=max(int(rate / 8 * delay * seeded.uniform(0.3, 4)), 20_000),
        loss=seeded.choice([0, 0.001, 0.01, 0.03, 0.08, 0.2]),
        reordering=seeded.choice([0, 0, 0.01, 0.1]),
        duplicates=seeded.choice([0, 0, 0.01, 0.05]),
        mtu=seeded.choice([1200, 1400, 1432, 8950, 1 << 16]),
    )


@pytest.mark.parametrize("block", range(10))
def test_everything_arrives_exactly_over_any_link(block: int) -> None:
    for seed in range(block * 20, block * 20 + 20):
        path, seeded = noise(seed), random.Random(seed)
        budget = int(min(400_000, path.rate / 8 * 2))
        messages: list[bytes] = []
        while sum(map(len, messages)) < budget:
            messages.append(seeded.randbytes(seeded.choice([1, 40, 1500, 16384, 65536])))
        a, b, _ = transfer(
            path,
            messages,
            seed=seed,
            most=300,
            largest_packet=16384,
            window=seeded.choice([1 << 17, 1 << 23]),
        )
        assert b.got == messages, f"seed {seed}"
        assert a.association.unacknowledged == a.association.buffered == 0
        assert a.association.state is b.association.state is State.ESTABLISHED


def test_both_ways_at_once() -> None:
    network, a, b = connected(Path(rate=20e6, delay=0.02, queue=100_000, loss=0.02))
    there, back = ([network.random.randbytes(16384) for _ in range(60)] for _ in range(2))
    say(a, *there)
    say(b, *back)
    assert network.run(lambda: (len(a.got), len(b.got)) == (60, 60), 30)
    assert (a.got, b.got) == (back, there)


@pytest.mark.parametrize("first", [0, 0xFFFFFFFA])
def test_numbers_begin_anywhere_and_wrap(first: int) -> None:
    four = struct.pack(">I", first)
    network = Network()
    a = End(network, Association(lambda n: four if n == 4 else bytes(n)), Wire(network, LAN))
    b = End(network, Association(network.random.randbytes), Wire(network, LAN))
    a.peer, b.peer = b, a
    a.association.agree(b.association.init, 0)
    b.association.agree(a.association.init, 0)
    sent = [bytes([n]) * 3000 for n in range(40)]
    say(a, *sent)
    assert network.run(lambda: len(b.got) == 40, 5)
    assert b.got == sent


# --- beginning and end


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_the_handshake_succeeds_from_one_end_and_from_both(both: bool, loss: float) -> None:
    for seed in range(20):
        _meet(seed, Path(delay=0.01, loss=loss), both)


def _meet(seed: int, path: Path, both: bool) -> None:
    network = Network(seed)
    a, b = (End(network, Association(network.random.randbytes), Wire(network, path)) for _ in range(2))
    a.peer, b.peer = b, a
    for end in (a, b) if both else (a,):
        end.association.start(0)
        end.stir()
    assert network.run(lambda: a.association.state is b.association.state is State.ESTABLISHED, 30), seed
    say(a, b"hello")
    say(b, b"hello")
    assert network.run(lambda: a.got == b.got == [b"hello"], 30), seed


def test_nobody_who_answers_ends_the_handshake() -> None:
    network = Network()
    a, _ = pair(network, Wire(network, Path(loss=1.0)), Wire(network, Path(loss=1.0)))
    assert network.run(lambda: a.association.state is State.CLOSED, 60)
    assert a.association.reason == "the peer does not answer"


def test_a_late_or_forged_init_changes_nothing() -> None:
    network, a, b = connected()
    say(a, b"one")
    network.run(lambda: b.got == [b"one"], 1)
    greeting = Header(5000, 5000, 0)
    for init in (a.association.init, a.association.init._replace(tag=12345, tsn=1)):
        b.receive(greeting.packet(wire.chunk(Type.INIT, wire.pack_init(init))))
    say(a, b"two")
    say(b, b"back")
    assert network.run(lambda: b.got == [b"one", b"two"] and a.got == [b"back"], 1)


def test_closing_is_heard_at_once() -> None:
    network, a, b = connected()
    a.association.close()
    a.stir()
    assert network.run(lambda: b.association.state is State.CLOSED, 0.01)
    assert b.association.reason == "the peer ended the connection"
    say(a, b"too late")
    assert a.association.poll(network.now) == []


def test_a_peer_that_shuts_down_is_answered() -> None:
    network, a, b = connected()
    b.receive(forged(b, wire.chunk(Type.SHUTDOWN, bytes(4))))
    assert b.association.state is State.CLOSED
    assert a.peer is b
    assert network.run(lambda: a.association.state is State.CLOSED, 1)


def test_a_dead_peer_is_noticed_within_three_seconds() -> None:
    network, a, b = connected(Path(rate=10e6, delay=0.02))
    say(a, *[bytes(16384)] * 2000)
    network.run(lambda: len(b.got) > 20, 5)
    a._wire.path = b._wire.path = Path(loss=1.0)
    died = network.now
    assert network.run(lambda: a.association.state is State.CLOSED, 10)
    assert DEAD <= network.now - died <= DEAD + 0.2


def test_a_closed_window_is_not_death_and_opens_again() -> None:
    network, a, b = connected(window=1 << 20)
    b.reading = False
    sent = [network.random.randbytes(16384) for _ in range(200)]
    say(a, *sent)
    network.run(lambda: False, 20)
    assert a.association.state is b.association.state is State.ESTABLISHED
    assert a.association.buffered > 1 << 20
    b.reading = True
    b.receive(b"")
    assert network.run(lambda: len(b.got) == 200, 5)
    assert b.got == sent


def test_an_idle_association_says_only_that_it_is_there() -> None:
    network, a, b = connected(largest_packet=1200)
    say(a, b"x")
    network.run(lambda: b.got == [b"x"], 1)
    network.run(lambda: False, 1)
    carried = a._wire.carried
    network.run(lambda: False, 60)
    assert a._wire.carried - carried <= 60 / QUIET * 2 * 40
    assert a.association.state is State.ESTABLISHED


# --- what a hostile or broken peer sends


def test_a_sack_of_what_was_never_sent_is_dropped() -> None:
    network, a, b = connected()
    say(a, b"one")
    network.run(lambda: b.got == [b"one"], 1)
    tsn = a.association.init.tsn
    for cumulative in (tsn + 1, tsn + 1000, tsn - 1000):
        a.receive(
            forged(a, wire.chunk(Type.SACK, struct.pack("!IIHH", cumulative & 0xFFFFFFFF, 1 << 20, 0, 0)))
        )
    a.receive(forged(a, wire.chunk(Type.SACK, struct.pack("!IIHHHH", tsn, 1 << 20, 1, 0, 5, 60_000))))
    say(a, b"two")
    assert network.run(lambda: b.got == [b"one", b"two"], 1)


def test_pieces_that_fit_no_message_end_the_association() -> None:
    network, a, b = connected()
    tsn = a.association.init.tsn
    b.receive(forged(b, DATA_HEADER.pack(0, END, 17, tsn, 0, 0, 53) + b"x\0\0\0"))
    assert b.association.state is State.CLOSED
    assert "broke the protocol" in b.association.reason
    assert network.run(lambda: a.association.state is State.CLOSED, 1)


def test_garbage_and_flipped_packets_change_nothing() -> None:
    seeded = random.Random(3)
    network, a, b = connected()
    say(a, *[bytes(1000)] * 20)
    network.run(lambda: len(b.got) == 20, 1)
    good = forged(b, DATA_HEADER.pack(0, BEGIN | END, 17, 1, 0, 0, 53) + b"x\0\0\0")
    for _ in range(3000):
        junk = bytearray(good)
        junk[seeded.randrange(len(junk))] ^= 1 << seeded.randrange(8)
        b.receive(bytes(junk))
        b.receive(seeded.randbytes(seeded.randrange(60)))
    assert len(b.got) == 20
    say(a, b"after")
    assert network.run(lambda: b.got[-1] == b"after", 1)


def test_chunks_of_all_kinds_with_any_content_never_raise() -> None:
    """Sealed by the right tag: what a peer that is in the association could send."""
    for seed in range(40):
        seeded = random.Random(seed)
        network, _, b = connected()
        for _ in range(60):
            kinds = [seeded.choice([*Type, 99, 200]) for _ in range(seeded.randrange(1, 4))]
            b.receive(
                forged(b, *(wire.chunk(kind, seeded.randbytes(seeded.randrange(40))) for kind in kinds))
            )
            network.run(lambda: False, 0.01)
        assert b.association.deadline(network.now) is None or b.association.state is not State.CLOSED


def test_an_unknown_chunk_is_passed_over_as_its_type_says() -> None:
    network, _, b = connected()
    beat = wire.chunk(Type.HEARTBEAT, b"12345678")
    for kind, answered in ((0xC1, True), (0x81, True), (0x41, False), (0x3F, False)):
        b.association.receive(forged(b, wire.chunk(kind, b"?"), beat), network.now)
        made = b.association.poll(network.now)
        kinds = [kind for packet in made for kind, _, _ in wire.chunks(packet)]
        assert (Type.HEARTBEAT_ACK in kinds) is answered, hex(kind)


def test_streams_that_the_peer_closes_are_granted_and_told() -> None:
    network, a, b = connected()
    receiver = b.association._receiver
    assert receiver is not None
    request = struct.pack("!IIIHH", a.association.init.tsn, 0, receiver.cumulative & 0xFFFFFFFF, 3, 5)
    for _ in range(2):
        b.association.receive(
            forged(b, wire.chunk(Type.RE_CONFIG, wire.parameter(Parameter.RESET_OUTGOING, request))),
            network.now,
        )
        kinds = [kind for packet in b.association.poll(network.now) for kind, _, _ in wire.chunks(packet)]
        assert Type.RE_CONFIG in kinds
    assert b.association.resets == {3, 5}


def test_a_stream_that_the_peer_closed_still_carries_in_the_other_direction() -> None:
    network, a, b = connected()
    say(b, b"one", b"two")
    network.run(lambda: len(a.got) == 2, 1)
    a.association.reset(0)
    a.stir()
    assert network.run(lambda: b.association.resets == {0}, 1)
    say(b, b"three")
    network.run(lambda: len(a.got) == 3, 1)
    assert b.association._sender._numbers == {0: 3}, "the numbers of its messages go on"


def test_a_stream_that_was_closed_counts_from_zero_again() -> None:
    network, a, b = connected()
    say(a, b"one", b"two")
    network.run(lambda: len(b.got) == 2, 1)
    a.association.reset(0)
    a.stir()
    assert network.run(lambda: not a.association._sender._numbers, 1)
    say(a, b"three")
    assert network.run(lambda: len(b.got) == 3, 1)


# --- the size of packets


@pytest.mark.parametrize(
    ("mtu", "found"), [(1200, LEAST), (1420, 1412), (1432, 1432), (9000, 8932), (1 << 16, 16384)]
)
def test_the_largest_packet_of_the_path_is_found(mtu: int, found: int) -> None:
    network, a, _ = connected(Path(delay=0.02, mtu=mtu), largest_packet=16384)
    network.run(lambda: False, 3)
    assert a.association.packet_size == found


def test_no_larger_packet_is_sent_than_the_peer_takes() -> None:
    network, a, _ = connected(largest_packet=1432)
    network.run(lambda: False, 3)
    assert a.association.packet_size == 1432


def test_a_path_that_shrinks_is_noticed_and_what_is_lost_may_be_fragmented() -> None:
    network, a, b = connected(Path(rate=50e6, delay=0.01), largest_packet=16384)
    network.run(lambda: a.association.packet_size == 16384, 3)
    sent = [network.random.randbytes(16384) for _ in range(100)]
    say(a, *sent)
    network.run(lambda: len(b.got) > 5, 1)
    a._wire.path = Path(rate=50e6, delay=0.01, mtu=1432)
    assert network.run(lambda: a.association.may_fragment, 3)
    a._wire.path = Path(rate=50e6, delay=0.01)  # as if IP fragmented
    assert network.run(lambda: len(b.got) == 100, 10)
    assert a.association.packet_size == LEAST
    assert b.got == sent
