"""Tickets at the command line: typed, in a file, in a variable; the file that one is written to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from bare import TICKET, Xfer, posix_only

from cli.tickets import check_target, read_ticket, write_ticket
from transfer.errors import MistypedTicket, UsageError
from transfer.ticket import Ticket


def test_a_mistyped_ticket_is_told_locally(xfer: Xfer, configured: Mapping[str, str]) -> None:
    wrong = TICKET[:-1] + ("q" if TICKET[-1] != "q" else "p")
    for args, more, given in (
        (["fetch", wrong], {}, None),
        (["fetch"], {"XFER_TICKET": wrong}, None),
        (["fetch", "--ticket-file", "-"], {}, wrong),
    ):
        run = xfer(*args, env={**configured, **more}, input=given)
        assert run.returncode == 12, run.stderr
        assert wrong not in run.stderr


def test_a_ticket_file_beats_the_variable(xfer: Xfer, configured: Mapping[str, str], tmp_path: Path) -> None:
    (tmp_path / "cwd" / "t").write_text("not a ticket\n")
    run = xfer("fetch", "--ticket-file", "t", env={**configured, "XFER_TICKET": TICKET})
    assert run.returncode == 12


def test_a_ticket_is_not_written_through_a_link(
    xfer: Xfer, configured: Mapping[str, str], tmp_path: Path
) -> None:
    target, link = tmp_path / "cwd" / "elsewhere", tmp_path / "cwd" / "link"
    target.write_text("precious")
    try:
        link.symlink_to(target)
    except OSError:
        pytest.skip("this user may not make links here")
    run = xfer("send", "f", "--ticket-file", "link", env=configured)
    assert run.returncode == 2
    assert "is not a plain file" in run.stderr
    assert target.read_text() == "precious"


@pytest.mark.parametrize("held", ["precious\n", f"{TICKET}x\n", TICKET[:-1]])
def test_a_file_that_holds_something_else_is_not_replaced_by_a_ticket(
    xfer: Xfer, configured: Mapping[str, str], tmp_path: Path, held: str
) -> None:
    target = tmp_path / "cwd" / "report"
    target.write_text(held)
    run = xfer("send", "f", "--ticket-file", "report", env=configured)
    assert run.returncode == 2
    assert "'report' is there and holds something else than a ticket" in run.stderr
    assert target.read_text() == held


@pytest.mark.parametrize("held", ["", TICKET, f"{TICKET}\n"])
def test_an_empty_file_or_an_older_ticket_may_be_replaced(tmp_path: Path, held: str) -> None:
    (tmp_path / "t").write_text(held)
    check_target(tmp_path / "t")
    write_ticket(tmp_path / "t", TICKET)
    assert (tmp_path / "t").read_text() == f"{TICKET}\n"


def test_a_ticket_file_is_private_whole_and_replaces_an_old_one(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_text("an older and longer ticket" * 9)
    path.chmod(0o644)
    write_ticket(path, TICKET)
    assert path.read_text() == TICKET + "\n"
    assert [found.name for found in tmp_path.iterdir()] == ["t"]
    if os.name == "posix":
        assert path.stat().st_mode & 0o777 == 0o600
    assert str(read_ticket(None, str(path))) == TICKET


def test_the_ticket_of_an_earlier_transfer_is_kept_aside_and_the_same_one_again_changes_nothing(
    tmp_path: Path,
) -> None:
    path, aside = tmp_path / "t", tmp_path / "t~"
    first, second = str(Ticket.new()), str(Ticket.new())
    for ticket, kept in ((first, None), (first, None), (second, first), (second, first), (TICKET, second)):
        check_target(path)
        write_ticket(path, ticket)
        assert path.read_text() == f"{ticket}\n"
        assert (aside.read_text() if aside.exists() else None) == (kept and f"{kept}\n")
    if os.name == "posix":
        assert aside.stat().st_mode & 0o777 == 0o600
    aside.write_text("precious\n")
    with pytest.raises(UsageError, match="t~' is there and holds something else"):
        check_target(path)


def test_a_ticket_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    with pytest.raises(UsageError):
        write_ticket(tmp_path / "t", TICKET)
    assert [found.name for found in tmp_path.iterdir()] == ["t"]


@posix_only
def test_a_ticket_file_without_end_is_not_read_to_its_end() -> None:
    with pytest.raises(MistypedTicket):
        read_ticket(None, "/dev/zero")
