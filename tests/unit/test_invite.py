"""Invites: what is written is read back, what is mistyped is told apart without asking anyone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.bech32m import ALPHABET, check_of
from transfer.errors import MistypedTicket, UnsupportedVersion
from transfer.invite import MAX_TEXT, PREFIX, Invite
from transfer.local.credentials import make_nkey

SEED, _ = make_nkey()
INVITE = Invite("tls://files.example:4222", "ann", SEED, b"a certificate" * 30)
invites = st.builds(
    Invite,
    url=st.text(max_size=80),
    user=st.text(max_size=64),
    seed=st.builds(lambda: make_nkey()[0]),
    ca=st.none() | st.binary(max_size=500),
)


def checked(symbols: list[int]) -> str:
    return PREFIX + "1" + "".join(ALPHABET[s] for s in [*symbols, *check_of(PREFIX, symbols)])


@given(invites)
def test_what_is_written_is_read_back(invite: Invite) -> None:
    assert Invite.parse(str(invite)) == invite


def test_an_invite_is_one_word_in_one_line() -> None:
    assert str(INVITE).isalnum()
    assert str(INVITE).startswith("xferjoin1")
    assert len(str(INVITE)) < MAX_TEXT // 8


def test_a_mail_may_break_it_capitalise_it_and_put_it_in_brackets() -> None:
    text = str(INVITE).upper()
    broken = "\r\n ".join(text[at : at + 72] for at in range(0, len(text), 72))
    assert Invite.parse(f"  <{broken}>\n") == INVITE


@given(st.data())
def test_one_to_three_wrong_characters_are_found(data: st.DataObject) -> None:
    text = list(str(INVITE))
    for place in data.draw(st.sets(st.integers(len(PREFIX) + 1, len(text) - 1), min_size=1, max_size=3)):
        text[place] = data.draw(st.sampled_from([c for c in ALPHABET if c != text[place]]))
    with pytest.raises(MistypedTicket):
        Invite.parse("".join(text))


@pytest.mark.parametrize("cut", [1, 8, 100])
def test_a_part_that_is_missing_is_found(cut: int) -> None:
    for text in (str(INVITE)[:-cut], str(INVITE)[: 150 - cut] + str(INVITE)[150:]):
        with pytest.raises(MistypedTicket, match="a part of it is missing") as raised:
            Invite.parse(text)
        assert raised.value.exit_code == 12
        assert raised.value.next_step == "copy the whole line again; it starts with xferjoin1"


@pytest.mark.parametrize(
    "text", ["", "xferjoin1", "xfer1qw3", "hello", "xferjoin1é", PREFIX + "1" + "q" * MAX_TEXT]
)
def test_what_is_no_invite_is_told(text: str) -> None:
    with pytest.raises(MistypedTicket):
        Invite.parse(text)


def test_mixed_letter_case_is_told() -> None:
    with pytest.raises(MistypedTicket, match="mixes"):
        Invite.parse(str(INVITE)[:-1] + str(INVITE)[-1].upper() + "Q")


def test_a_newer_invite_is_told_apart_from_a_wrong_one() -> None:
    with pytest.raises(UnsupportedVersion, match="newer xfer"):
        Invite.parse(checked([1, 2, 3]))


@given(st.lists(st.integers(0, 31), max_size=60))
def test_a_payload_of_anything_else_is_mistyped_and_no_crash(symbols: list[int]) -> None:
    with pytest.raises(MistypedTicket):
        Invite.parse(checked([0, *symbols]))


def test_an_invite_does_not_show_its_seed() -> None:
    assert SEED not in repr(INVITE)
    assert "seed withheld" in repr(INVITE)
