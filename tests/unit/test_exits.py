"""Which error is told of, and what never is."""

from __future__ import annotations

import asyncio

from cli.exits import first_own, redact
from transfer.errors import JobGone, PeerLost
from transfer.ticket import Ticket


def test_a_group_is_told_of_by_its_first_own_error() -> None:
    own = PeerLost("gone")
    inner = ExceptionGroup("inner", [KeyError("x"), own])
    group = BaseExceptionGroup("outer", [asyncio.CancelledError(), ValueError(), inner, JobGone("later")])
    assert first_own(group) is own


def test_a_group_without_an_own_error_is_told_of_by_its_first_that_is_no_cancellation() -> None:
    bug = ValueError()
    assert first_own(BaseExceptionGroup("outer", [asyncio.CancelledError(), bug, KeyError()])) is bug


def test_an_error_in_no_group_is_itself() -> None:
    error = JobGone("gone")
    assert first_own(error) is error


def test_tickets_signatures_and_seeds_are_withheld() -> None:
    ticket = str(Ticket.new())
    seed = "SU" + "A" * 56
    url = "http://s3.test/b/k?partNumber=1&X-Amz-Credential=me&X-Amz-Signature=0123abcd"
    text = redact(f"GET {url} failed for {ticket} ({ticket.upper()}) as {seed}")
    for secret in (ticket, ticket.upper(), seed, "0123abcd", "=me"):
        assert secret not in text
    assert "http://s3.test/b/k?partNumber=1" in text
