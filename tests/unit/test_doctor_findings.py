"""What the doctor makes of what it finds: exit codes, lines, colours."""

from __future__ import annotations

import msgspec
import pytest

from cli import doctor
from transfer.api import CheckupReport
from transfer.bus import ServerFacts
from transfer.doctor import Finding, worst
from transfer.doctor.brokers import Seen, worst_of
from transfer.doctor.servers import _broker, _clocks, _jetstream, _store_hint, _tls
from transfer.errors import NotAllowed, StoreUnreachable
from transfer.transports.s3.http import SignatureRefused


def found(*codes: int) -> list[Finding]:
    return [Finding("x", "fail", "it failed", "mend it", code) for code in codes]


@pytest.mark.parametrize(
    ("codes", "code"),
    [((), 0), ((5,), 5), ((5, 7, 5), 7), ((7,), 7), ((5, 2), 2), ((1, 7), 1), ((5, 5), 5)],
)
def test_the_exit_code_is_the_worst(codes: tuple[int, ...], code: int) -> None:
    assert (
        worst([Finding("fine", "ok", "well"), Finding("so so", "note", "look", "look"), *found(*codes)])
        == code
    )


@pytest.mark.parametrize(
    ("ahead", "skew", "state", "said"),
    [
        (0.2, 0.9, "ok", "this machine, the broker and the store agree"),
        (3.0, 0.0, "ok", "this machine is 3 s ahead of the broker"),
        (-40.0, 0.0, "note", "this machine is 40 s behind the broker"),
        (0.0, 100.0, "note", "the broker is 100 s ahead of the store"),
        (0.0, None, "ok", "this machine, the broker and the store agree"),
        (-400.0, 0.0, "fail", "this machine is 400 s behind the broker"),
        (0.0, -400.0, "fail", "the broker is 400 s behind the store"),
    ],
)
def test_clocks_are_judged_by_how_far_they_are_apart(
    ahead: float, skew: float | None, state: str, said: str
) -> None:
    finding = _clocks(ahead, skew)
    assert finding.state == state
    assert said in finding.said
    assert finding.code == (5 if state == "fail" else 0)
    assert bool(finding.next) == (state != "ok")


def test_no_tls_is_fine_on_this_machine_and_noted_beyond() -> None:
    assert _tls(ServerFacts("127.0.0.1", "2", "", "")).state == "ok"
    assert _tls(ServerFacts("::1", "2", "", "")).state == "ok"
    assert _tls(ServerFacts("localhost", "2", "", "")).state == "ok"
    beyond = _tls(ServerFacts("bus.example", "2", "", ""))
    assert (beyond.state, beyond.code) == ("note", 0)
    assert "tls://" in beyond.next
    secure = _tls(ServerFacts("bus.example", "2", "TLSv1.3", "Jan  1 00:00:00 2031 GMT"))
    assert secure.state == "ok"
    assert "2031" in secure.said


def report(**streams: str) -> CheckupReport:
    return CheckupReport("0", 0.0, 0.0, "b", "", streams)


def test_without_job_records_nothing_works_but_without_events_and_rooms_transfers_do() -> None:
    assert _jetstream(report(KV_xfer_jobs="", xfer_events="")).state == "ok"
    missing = "there is no such stream"
    unseen = _jetstream(report(KV_xfer_jobs="", KV_xfer_rooms="", xfer_events=missing))
    assert (unseen.state, unseen.next.split(";")[0]) == ("note", "transfers work, but cannot be watched")
    neither = _jetstream(report(KV_xfer_jobs="", KV_xfer_rooms=missing, xfer_events=missing))
    assert neither.next.startswith("transfers work, but cannot be watched and reach no room;")
    away = _jetstream(report(KV_xfer_jobs="no answer", xfer_events="no answer"))
    assert (away.state, away.code) == ("fail", 5)


def test_keys_that_the_store_refuses_are_the_brokers_and_a_store_that_is_away_is_this_machines() -> None:
    assert "the broker's AWS_* keys" in _store_hint(SignatureRefused("refused (403 AccessDenied)"))
    assert "this machine does not" in _store_hint(StoreUnreachable("no answer"))
    assert _store_hint(NotAllowed("no")) == ""


def test_a_broker_that_nats_forbids_something_is_named_and_exits_7() -> None:
    well, ill = report(), msgspec.structs.replace(report(), broker="b2, process 7", rights=["publish to x.>"])
    finding = worst_of([Seen(well, 0.0, 0.0), Seen(ill, 0.0, 0.0)], lambda one: _broker(one.report, 0.0))
    assert (finding.state, finding.code) == ("fail", 7)
    assert finding.said == "NATS does not let the broker publish to x.> (the broker on b2, process 7)"


def test_a_broker_of_another_version_is_noted() -> None:
    assert "upgrade" in _broker(report(), 0.01).next


@pytest.mark.parametrize("coloured", [True, False])
def test_lines_fit_80_columns_with_colour_and_without(
    coloured: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.exits.coloured", lambda _file: coloured)
    for state in ("ok", "note", "skip", "fail"):
        doctor._print(Finding("JetStream", state, "what it said, at length " * 9, "what to do next " * 9, 5))
    out = capsys.readouterr().out
    assert ("\x1b[" in out) == coloured
    plain = [line.replace("\x1b[0m", "") for line in out.splitlines()]
    assert max(len(line.partition("m")[2] if line.startswith("\x1b") else line) for line in plain) <= 80
    assert out.count("→") == 4


def test_what_a_server_says_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    doctor._print(Finding("S3", "fail", "\x1b[2Jgone", "\x07", 5))
    assert "\x1b" not in capsys.readouterr().out
