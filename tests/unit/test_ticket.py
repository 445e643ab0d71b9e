"""Tickets: what is written is read back, what is mistyped is told apart without asking anyone."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.bech32m import ALPHABET, check_of, fits
from transfer.errors import MistypedTicket, UnsupportedVersion
from transfer.ticket import JOB_SYMBOLS, SECRET_BYTES, SECRET_SYMBOLS, RoomTicket, Ticket, is_job_id

LENGTH = 54
tickets = st.builds(
    Ticket,
    id=st.text(ALPHABET, min_size=JOB_SYMBOLS, max_size=JOB_SYMBOLS),
    secret=st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES),
)


def with_check(symbols: list[int]) -> str:
    """A ticket text of these symbols whose check characters are right."""
    return "xfer1" + "".join(ALPHABET[s] for s in symbols + check_of(Ticket.PREFIX, symbols))


@given(tickets)
def test_what_is_written_is_read_back(ticket: Ticket) -> None:
    text = str(ticket)
    assert len(text) == LENGTH
    assert Ticket.parse(text) == ticket


@given(tickets)
def test_letter_case_and_blanks_around_it_do_not_matter(ticket: Ticket) -> None:
    assert Ticket.parse(f"  {str(ticket).upper()}\r\n") == ticket


@given(tickets, st.data())
def test_one_to_four_wrong_characters_are_found(ticket: Ticket, data: st.DataObject) -> None:
    text = list(str(ticket))
    places = data.draw(st.sets(st.integers(len("xfer1"), LENGTH - 1), min_size=1, max_size=4))
    for place in places:
        text[place] = data.draw(st.sampled_from([c for c in ALPHABET if c != text[place]]))
    with pytest.raises(MistypedTicket):
        Ticket.parse("".join(text))


def test_every_single_wrong_character_and_every_swap_of_neighbours_is_found() -> None:
    text = str(Ticket("q" * 8 + "pzry9x8g", bytes(range(SECRET_BYTES))))
    wrong = [text[:at] + c + text[at + 1 :] for at in range(5, LENGTH) for c in ALPHABET if c != text[at]]
    swapped = [text[:at] + text[at + 1] + text[at] + text[at + 2 :] for at in range(5, LENGTH - 1)]
    for candidate in itertools.chain(wrong, swapped):
        if candidate != text:
            with pytest.raises(MistypedTicket):
                Ticket.parse(candidate)


def test_twenty_thousand_random_pairs_of_wrong_characters_are_found() -> None:
    chance = random.Random(20)
    text = str(Ticket("7" * JOB_SYMBOLS, b"\xa5" * SECRET_BYTES))
    symbols = [ALPHABET.index(c) for c in text[5:]]
    for _ in range(20_000):
        wrong = symbols.copy()
        for place in chance.sample(range(len(symbols)), 2):
            wrong[place] ^= chance.randrange(1, 32)
        assert not fits(Ticket.PREFIX, wrong)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "xfer1",
        "xfer",
        "hello",
        "xfer1q",
        "xfer1" + "q" * 49,
        "yfer1" + "q" * 49,
        "xfer1" + "b" * 49,
        "ÄÖ" * 27,
    ],
)
def test_what_is_no_ticket_is_refused(text: str) -> None:
    with pytest.raises(MistypedTicket):
        Ticket.parse(text)


@given(st.text(max_size=80))
def test_any_text_at_all_gives_a_ticket_or_a_mistyped_one(text: str) -> None:
    with pytest.raises((MistypedTicket, UnsupportedVersion)):
        Ticket.parse(text)


def test_a_part_that_is_missing_is_found_and_so_is_one_too_many() -> None:
    text = str(Ticket.new())
    for candidate in (*(text[:n] for n in range(LENGTH)), *(text[:n] + text[n + 1 :] for n in range(LENGTH))):
        with pytest.raises(MistypedTicket):
            Ticket.parse(candidate)
    with pytest.raises(MistypedTicket):
        Ticket.parse(text + "q")


def test_mixed_letter_case_is_refused() -> None:
    text = str(Ticket("q" * JOB_SYMBOLS, bytes(SECRET_BYTES)))
    with pytest.raises(MistypedTicket, match="mixes"):
        Ticket.parse(text[:20] + text[20:].upper())


def test_a_right_checksum_over_a_wrong_length_is_refused() -> None:
    with pytest.raises(MistypedTicket, match="length"):
        Ticket.parse(with_check([0] * (1 + JOB_SYMBOLS + SECRET_SYMBOLS - 1)))


def test_a_secret_whose_padding_is_not_zero_is_refused() -> None:
    with pytest.raises(MistypedTicket, match="at its end"):
        Ticket.parse(with_check([0] * (JOB_SYMBOLS + SECRET_SYMBOLS) + [1]))


def test_another_prefix_is_refused_though_all_after_it_is_right() -> None:
    with pytest.raises(MistypedTicket, match="not a ticket"):
        Ticket.parse("yfer" + str(Ticket.new())[4:])


def test_a_foreign_symbol_is_refused_even_if_the_checksum_were_to_fit() -> None:
    text = with_check([0] * 30 + [-1] + [0] * 12)  # -1 is what a lookup of such a symbol gives
    with pytest.raises(MistypedTicket):
        Ticket.parse(text[:35] + "b" + text[36:])


def test_check_characters_alone_are_no_ticket() -> None:
    with pytest.raises(MistypedTicket):
        Ticket.parse(with_check([]))


def test_a_later_version_says_so() -> None:
    with pytest.raises(UnsupportedVersion):
        Ticket.parse(with_check([1] + [0] * (JOB_SYMBOLS + SECRET_SYMBOLS)))


def test_new_tickets_differ_and_are_well_formed() -> None:
    made = [Ticket.new() for _ in range(50)]
    assert len({t.job for t in made}) == len({t.secret for t in made}) == 50
    assert all(is_job_id(t.job) and Ticket.parse(str(t)) == t for t in made)


@pytest.mark.parametrize(
    "text", ["", "q" * 15, "q" * 17, "b" * 16, "Q" * 16, "q" * 15 + ".", "q" * 15 + "\n"]
)
def test_only_sixteen_symbols_of_the_alphabet_are_a_job_id(text: str) -> None:
    assert is_job_id("q" * 16)
    assert not is_job_id(text)


def test_the_symbols_are_the_32_of_bech32() -> None:
    taken = {c for c in map(chr, range(128)) if is_job_id(c * JOB_SYMBOLS)}
    assert taken == set("023456789acdefghjklmnpqrstuvwxyz")  # BIP-173: without 1, b, i and o


def test_the_repr_withholds_the_secret() -> None:
    ticket = Ticket("q" * JOB_SYMBOLS, b"\xde\xad" * 8)
    assert "secret withheld" in repr(ticket)
    assert "xde" not in repr(ticket)
    assert str(ticket)[22:48] not in repr(ticket)


@pytest.mark.parametrize("around", ["<{}>", "‹{}›", " {}\r\n", "`{}`.", '"{}",'])
def test_what_a_mail_puts_around_a_ticket_does_not_matter(around: str) -> None:
    ticket = Ticket.new()
    assert Ticket.parse(around.format(ticket)) == ticket


def test_a_ticket_that_was_wrapped_is_whole_again() -> None:
    ticket = Ticket.new()
    text = str(ticket)
    assert Ticket.parse(text[:20] + "\r\n  " + text[20:40] + " " + text[40:]) == ticket


def test_a_rooms_ticket_is_read_back_and_is_no_jobs() -> None:
    room = RoomTicket.new()
    assert str(room).startswith("xferroom1")
    assert RoomTicket.parse(str(room).upper()) == room
    assert room != Ticket(room.id, room.secret)
    assert repr(room) == f"RoomTicket({room.room}, secret withheld)"


@pytest.mark.parametrize(
    ("wanted", "given", "what", "head"),
    [
        (Ticket, RoomTicket, "that is a room's ticket, not a transfer's ticket", "xfer1"),
        (RoomTicket, Ticket, "that is a transfer's ticket, not a room's ticket", "xferroom1"),
    ],
)
def test_a_ticket_of_the_other_kind_is_told_so(
    wanted: type[Ticket | RoomTicket], given: type[Ticket | RoomTicket], what: str, head: str
) -> None:
    with pytest.raises(MistypedTicket) as raised:
        wanted.parse(str(given.new()))
    assert raised.value.what == what
    assert raised.value.next_step == f"give the one that starts with {head}"


def test_a_mistyped_ticket_of_a_room_is_asked_for_again_by_its_own_prefix() -> None:
    with pytest.raises(MistypedTicket) as raised:
        RoomTicket.parse(str(RoomTicket.new())[:-1])
    assert raised.value.next_step == "copy the whole ticket again; it starts with xferroom1"
