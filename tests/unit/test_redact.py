"""What must stand in no log, by its shape."""

from __future__ import annotations

import base64
import io
import json
import logging
import random
import string
from collections.abc import Iterator

import pytest

from tests.leaks import secrets_in
from transfer.local.credentials import make_nkey
from transfer.redact import WITHHELD, redact, redact_logs
from transfer.seal import Sealer
from transfer.ticket import RoomTicket, Ticket

TICKET = str(Ticket.new())
ROOM = str(RoomTicket.new())
SEED = make_nkey()[0]
TOKEN = Sealer(Ticket.new()).token()
JWT = ".".join(
    base64.urlsafe_b64encode(part).decode().rstrip("=")
    for part in (
        json.dumps({"typ": "JWT", "alg": "ed25519-nkey"}).encode(),
        b'{"name":"ann","sub":"U"}',
        b"s" * 64,
    )
)
SIGNATURE = "0123456789abcdef" * 4
URL = (
    "http://s3.test/b/k?partNumber=1&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F20260101%2Fx"
    f"&X-Amz-Date=20260101T000000Z&X-Amz-Security-Token=tOkEn&X-Amz-Signature={SIGNATURE}"
)
HEADER = f"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260101/us-east-1/s3/aws4_request, Signature={SIGNATURE}"


@pytest.mark.parametrize(
    ("text", "secrets"),
    [
        (f"carry on with {TICKET}", [TICKET]),
        (f"carry on with {TICKET.upper()}!", [TICKET.upper()]),
        (f"join {ROOM}", [ROOM]),
        (f"GET {URL} failed", [SIGNATURE, "AKIDEXAMPLE", "tOkEn"]),
        (f"Authorization: {HEADER}", [SIGNATURE, "AKIDEXAMPLE"]),
        (f"{{'authorization': '{HEADER}'}}", [SIGNATURE, "AKIDEXAMPLE"]),
        (HEADER, [SIGNATURE, "AKIDEXAMPLE"]),
        ("Authorization: Bearer abc.def", ["abc.def"]),
        (f"the seed is {SEED}.", [SEED]),
        (f"user {JWT} connects", [JWT]),
        (f'{{"v":1,"job":"q","token":"{TOKEN}"}}', [TOKEN]),
        ("nats://ann:hush@bus.test:4222 is away", ["hush", "ann"]),
        ("nats://t0ken@bus.test:4222 is away", ["t0ken"]),
    ],
    ids=str.split("ticket TICKET room url header dict bare bearer seed jwt token password address"),
)
def test_secrets_are_withheld_and_found(text: str, secrets: list[str]) -> None:
    cleaned = redact(text)
    assert WITHHELD in cleaned
    assert not [secret for secret in secrets if secret in cleaned]
    assert secrets_in(text)
    assert secrets_in(cleaned) == []
    assert redact(cleaned) == cleaned


@pytest.mark.parametrize(
    "text",
    [
        "waiting for NATS: cannot reach NATS at nats://127.0.0.1:4222 (connection refused)",
        "nats: 'Authorization Violation'",
        "swept 3 jobs that were over",
        "job qw3eqw3eqw3eqw3e: an upload could not be dropped yet: the store refuses the broker (AccessDenied)",
        "see `xfer --help`, or write to ann@bus.test",
        "http://s3.test/b/k?partNumber=1",
        "",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_a_long_text_takes_no_long_time() -> None:
    choose = random.Random(1)
    for alphabet in (string.ascii_letters, "://@", "xfer1", "eyJ.-", 'Authorization:" '):
        text = "".join(choose.choice(alphabet) for _ in range(300_000))
        redact(text)  # the test's time limit is the assertion: nothing here may take its square


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What a logger of somebody else's library writes, in the form that it chose itself."""
    before, log, stream = logging.getLogRecordFactory(), logging.getLogger("somebody.else"), io.StringIO()
    handler = logging.StreamHandler(stream)
    log.addHandler(handler)
    redact_logs()
    yield stream
    logging.setLogRecordFactory(before)
    log.removeHandler(handler)


def test_what_any_library_logs_is_redacted(logged: io.StringIO) -> None:
    log = logging.getLogger("somebody.else")
    log.warning('"PUT %s HTTP/1.1" %d', URL, 200)
    try:
        raise ValueError(f"no such ticket: {TICKET}")
    except ValueError:
        log.exception("about %s", TICKET)
    said = logged.getvalue()
    assert not secrets_in(said)
    assert said.startswith('"PUT http://s3.test/b/k?partNumber=1&')
    assert f"ValueError: no such ticket: {WITHHELD}" in said
