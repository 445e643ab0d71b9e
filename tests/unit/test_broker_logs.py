"""Every line of a broker's log says what it is about, and holds no secret, in text and in JSON."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from transfer.broker import logs
from transfer.broker.settings import Settings
from transfer.errors import UsageError
from transfer.ticket import Ticket

TICKET = str(Ticket.new())


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, as it was afterwards."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield root
    root.handlers[:], root.level = before


def said(form: str, root: logging.Logger) -> tuple[io.StringIO, logging.Logger]:
    stream = io.StringIO()
    logs.configure(form, stream)
    return stream, logging.getLogger("transfer.broker.somewhere")


def test_a_json_line_has_time_level_message_user_verb_and_job(root: logging.Logger) -> None:
    stream, log = said("json", root)
    logs.about(user="ann", verb="begin")
    logs.about(job="qw3e")
    log.warning("upload %d is %s", 7, "away")
    [line] = [json.loads(line) for line in stream.getvalue().splitlines()]
    time = line.pop("time")
    assert time > 1.7e9
    assert line == {
        "level": "warning",
        "message": "upload 7 is away",
        "user": "ann",
        "verb": "begin",
        "job": "qw3e",
    }


def test_a_pass_of_the_sweeper_says_which_job_it_is_at(root: logging.Logger) -> None:
    stream, log = said("json", root)
    with logs.about_job("one"):
        log.info("inside")
    log.info("outside")
    inside, outside = (json.loads(line) for line in stream.getvalue().splitlines())
    assert inside["job"] == "one"
    assert outside.get("job", "") != "one"


@pytest.mark.parametrize("form", logs.FORMS)
def test_no_form_lets_a_secret_through_in_message_argument_or_traceback(
    form: str, root: logging.Logger
) -> None:
    stream, log = said(form, root)
    log.info("got %s", TICKET)
    log.info(f"got {TICKET}")
    try:
        raise ValueError(f"not {TICKET}")
    except ValueError:
        log.exception("a bug")
    assert TICKET not in stream.getvalue()
    assert stream.getvalue().count("(withheld)") >= 3
    assert "ValueError" in stream.getvalue()
    if form == "json":
        assert len([json.loads(line) for line in stream.getvalue().splitlines()]) == 3


def test_text_is_as_people_know_it(root: logging.Logger) -> None:
    stream, log = said("text", root)
    log.info("ready, bucket %s", "xfer")
    assert stream.getvalue() == "xfer broker: ready, bucket xfer\n"


@pytest.mark.parametrize(
    "changes",
    [{"XFER_LOG": "xml"}, {"XFER_METRICS": "many"}, {"XFER_METRICS": "65536"}, {"XFER_METRICS": "-1"}],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        Settings.from_environment({"NATS_URL": "nats://x", **changes})


def test_logs_and_metrics_are_settings() -> None:
    settings = Settings.from_environment({"NATS_URL": "nats://x", "XFER_LOG": "json", "XFER_METRICS": "9100"})
    assert (settings.log, settings.metrics) == ("json", 9100)
    assert Settings.from_environment({"NATS_URL": "nats://x"}).metrics == 0
