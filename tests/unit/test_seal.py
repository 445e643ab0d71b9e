"""Seals: nothing altered, cut, renamed or turned round ever opens."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer import seal
from transfer.errors import DamagedData
from transfer.seal import NONCE, OVERHEAD, Purpose, Sealer, Suite, fastest_suite, hash_token
from transfer.ticket import Ticket

TICKET = Ticket("q" * 16, bytes(range(16)))
SUITES = list(Suite)
purposes = st.sampled_from([p for p in Purpose if p is not Purpose.TOKEN])


@pytest.fixture(params=SUITES, ids=lambda suite: suite.name)
def sealer(request: pytest.FixtureRequest) -> Sealer:
    suite: Suite = request.param
    return Sealer(TICKET, suite)


@given(purposes, st.integers(0, 2**32 - 1), st.binary(max_size=300), st.sampled_from(SUITES))
def test_what_is_sealed_opens_whichever_suite_the_opener_prefers(
    purpose: Purpose, index: int, plain: bytes, suite: Suite
) -> None:
    sealed = Sealer(TICKET, suite).seal(purpose, index, plain)
    assert len(sealed) == len(plain) + OVERHEAD
    for other in SUITES:
        assert Sealer(TICKET, other).open(purpose, index, sealed) == plain


def test_any_flipped_bit_anywhere_is_refused(sealer: Sealer) -> None:
    sealed = sealer.seal(Purpose.CHUNK, 7, b"some bytes of a file")
    for bit in range(8 * len(sealed)):
        altered = bytearray(sealed)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedData):
            sealer.open(Purpose.CHUNK, 7, bytes(altered))


def test_every_cut_and_every_addition_is_refused(sealer: Sealer) -> None:
    sealed = sealer.seal(Purpose.CHUNK, 7, b"some bytes of a file")
    cuts: list[bytes | bytearray] = [sealed[:n] for n in range(len(sealed))]
    for candidate in (*cuts, sealed + b"\0", b"\0" + sealed):
        with pytest.raises(DamagedData):
            sealer.open(Purpose.CHUNK, 7, candidate)


def test_nothing_opens_for_another_purpose_or_direction(sealer: Sealer) -> None:
    for purpose, other in itertools.permutations(Purpose, 2):
        sealed = sealer.seal(purpose, 0, b"plain")
        with pytest.raises(DamagedData):
            sealer.open(other, 0, sealed)


def test_nothing_opens_under_another_index(sealer: Sealer) -> None:
    sealed = sealer.seal(Purpose.CHUNK, 1, b"plain")
    for other in (0, 2, 11, 2**32 + 1):
        with pytest.raises(DamagedData):
            sealer.open(Purpose.CHUNK, other, sealed)


@pytest.mark.parametrize(
    "other", [Ticket("p" * 16, TICKET.secret), Ticket(TICKET.job, bytes(16))], ids=["job", "secret"]
)
def test_nothing_opens_in_another_job_or_with_another_secret(sealer: Sealer, other: Ticket) -> None:
    with pytest.raises(DamagedData):
        Sealer(other).open(Purpose.CHUNK, 0, sealer.seal(Purpose.CHUNK, 0, b"plain"))


def test_a_job_with_the_same_key_is_still_told_apart_by_the_associated_data(sealer: Sealer) -> None:
    twin = Sealer(TICKET)
    twin._ciphers.update(sealer._ciphers)
    sealed = sealer.seal(Purpose.CHUNK, 0, b"plain")
    twin._ciphers.update(sealer._ciphers)
    twin.job = "p" * 16
    with pytest.raises(DamagedData):
        twin.open(Purpose.CHUNK, 0, sealed)


def test_a_suite_nobody_knows_is_refused(sealer: Sealer) -> None:
    sealed = sealer.seal(Purpose.CHUNK, 0, b"plain")
    for suite in (0, 3, 255):
        with pytest.raises(DamagedData):
            sealer.open(Purpose.CHUNK, 0, bytes([suite]) + sealed[1:])


def test_the_same_plain_text_never_looks_the_same_twice(sealer: Sealer) -> None:
    sealed = [bytes(sealer.seal(Purpose.CHUNK, 0, b"plain")) for _ in range(200)]
    assert len({s[1 : 1 + NONCE] for s in sealed}) == len(set(sealed)) == 200


@settings(max_examples=20)
@given(st.binary(max_size=100))
def test_buffers_of_any_kind_are_sealed_and_opened(plain: bytes) -> None:
    sealer = Sealer(TICKET)
    for kind in (bytes, bytearray, memoryview):
        sealed = sealer.seal(Purpose.CHUNK, 0, kind(plain))
        assert sealer.open(Purpose.CHUNK, 0, memoryview(sealed)) == plain


def test_opening_in_place_fills_just_the_place(sealer: Sealer) -> None:
    around = bytearray(b"#" * 120)
    sealed = sealer.seal(Purpose.CHUNK, 3, b"p" * 100)
    sealer.open_into(Purpose.CHUNK, 3, memoryview(sealed), memoryview(around)[10:110])
    assert around == b"#" * 10 + b"p" * 100 + b"#" * 10


def test_what_does_not_open_in_place_is_refused_as_elsewhere(sealer: Sealer) -> None:
    sealed = sealer.seal(Purpose.CHUNK, 3, b"p" * 100)
    for wrong in (sealed[:-1] + bytes([sealed[-1] ^ 1]), bytes([9]) + sealed[1:], bytes(OVERHEAD - 1)):
        with pytest.raises(DamagedData):
            sealer.open_into(Purpose.CHUNK, 3, wrong, memoryview(bytearray(max(0, len(wrong) - OVERHEAD))))
    with pytest.raises(DamagedData):
        sealer.open_into(Purpose.CHUNK, 4, sealed, memoryview(bytearray(100)))


def test_a_place_of_another_size_is_a_misuse_and_stays_as_it_was(sealer: Sealer) -> None:
    sealed = sealer.seal(Purpose.CHUNK, 3, b"p" * 100)
    for size in (0, 99, 101):
        place = bytearray(size)
        with pytest.raises(ValueError, match="100 bytes"):
            sealer.open_into(Purpose.CHUNK, 3, sealed, memoryview(place))
        assert place == bytes(size)


def test_sealing_copies_what_it_seals(sealer: Sealer) -> None:
    """The memory is used for the next one at once."""
    plain = bytearray(b"first")
    sealed = sealer.seal(Purpose.CHUNK, 0, memoryview(plain))
    plain[:] = b"other"
    assert sealer.open(Purpose.CHUNK, 0, sealed) == b"first"


def test_many_threads_share_one_sealer(sealer: Sealer) -> None:
    def there_and_back(index: int) -> bool:
        plain = bytes([index % 251]) * 5000
        return sealer.open(Purpose.CHUNK, index, sealer.seal(Purpose.CHUNK, index, plain)) == plain

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(there_and_back, range(200)))


def test_the_token_belongs_to_the_ticket_and_tells_no_key() -> None:
    token = Sealer(TICKET).token()
    assert token == Sealer(TICKET).token()
    assert len(bytes.fromhex(token)) == 32
    assert token not in (Sealer(Ticket("p" * 16, TICKET.secret)).token(), Sealer(Ticket.new()).token())
    assert Sealer(TICKET).token_hash() == hash_token(token) != token
    keys = {Sealer(TICKET)._derive(p, s, 32) for p in Purpose for s in (0, *SUITES)}
    assert len(keys) == len(Purpose) * 3


def test_the_fastest_suite_is_one_of_ours_and_found_once() -> None:
    assert fastest_suite() in SUITES
    assert fastest_suite() is fastest_suite()
    assert Sealer(TICKET).seal(Purpose.CHUNK, 0, b"")[0] == fastest_suite()


@pytest.mark.parametrize(
    ("aes", "chacha", "chosen"),
    [
        ([1.0], [1.0], Suite.AES_256_GCM),
        ([1.4], [1.0], Suite.AES_256_GCM),
        ([1.5], [1.0], Suite.AES_256_GCM),
        ([1.6], [1.0], Suite.CHACHA20_POLY1305),
        ([1.0], [9.0], Suite.AES_256_GCM),
        ([9.0, 9.0, 1.0, 9.0, 9.0], [1.0], Suite.AES_256_GCM),  # what interrupts one does not count
        ([1.6], [9.0, 1.0, 9.0, 9.0, 9.0], Suite.CHACHA20_POLY1305),
    ],
)
def test_aes_is_taken_unless_the_other_is_half_again_as_fast(
    monkeypatch: pytest.MonkeyPatch, aes: list[float], chacha: list[float], chosen: Suite
) -> None:
    now = 100.0
    took = {suite: itertools.cycle(each) for suite, each in zip(Suite, (aes, chacha), strict=True)}

    def cipher(suite: Suite) -> object:
        def encrypt(nonce: bytes, block: bytes, bound: None) -> bytes:
            nonlocal now
            assert len(block) > 100_000, "enough to be measured"
            now += next(took[suite])
            return block

        return lambda key: SimpleNamespace(encrypt=encrypt)

    monkeypatch.setattr(seal, "_CIPHERS", {suite: cipher(suite) for suite in Suite})
    monkeypatch.setattr(seal, "time", SimpleNamespace(perf_counter=lambda: now))
    assert fastest_suite.__wrapped__() is chosen


def test_a_seal_adds_29_bytes_its_suite_first() -> None:
    sealed = Sealer(TICKET, Suite.CHACHA20_POLY1305).seal(Purpose.CHUNK, 0, b"plain")
    assert (len(sealed), sealed[0], OVERHEAD) == (5 + 29, 2, 29)
    with pytest.raises(DamagedData, match="cut off"):
        Sealer(TICKET).open(Purpose.CHUNK, 0, sealed[: OVERHEAD - 1])
    with pytest.raises(DamagedData, match="altered"):
        Sealer(TICKET).open(Purpose.CHUNK, 0, sealed[:OVERHEAD])
