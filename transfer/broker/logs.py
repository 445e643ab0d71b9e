"""What a broker says on stderr: text for people or one JSON object a line; what is secret is withheld in both."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import sys
from collections.abc import Iterator
from typing import TextIO

import msgspec

from transfer.redact import redact_logs

FORMS = ("text", "json")
_TEXT = "xfer broker: %(message)s"


class About(msgspec.Struct, frozen=True):
    """What is being done while something is logged; empty where that is not known."""

    user: str = ""
    verb: str = ""
    job: str = ""


_NOTHING = About()
_about: contextvars.ContextVar[About] = contextvars.ContextVar("about", default=_NOTHING)


def about(*, user: str = "", verb: str = "", job: str = "") -> None:
    """Say what this task is about; what is left out stays as it is."""
    now = _about.get()
    _about.set(About(user or now.user, verb or now.verb, job or now.job))


@contextlib.contextmanager
def about_job(job: str) -> Iterator[None]:
    """What is logged within is about that job."""
    before = _about.get()
    _about.set(About(before.user, before.verb, job))
    try:
        yield
    finally:
        _about.set(before)


def configure(form: str, stream: TextIO | None = None) -> None:
    """form: one of FORMS. stream: instead of stderr."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(logging.Formatter(_TEXT) if form == "text" else _Json())
    redact_logs()
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    logging.getLogger("botocore").setLevel(logging.WARNING)


class _Line(msgspec.Struct, omit_defaults=True):
    """time: seconds since 1970. refused, count: of `refused`."""

    time: float
    level: str
    message: str
    user: str = ""
    verb: str = ""
    job: str = ""
    trace: str = ""
    refused: str = ""
    count: int = 0


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        now = _about.get()
        line = _Line(
            time=round(record.created, 3),
            level=record.levelname.lower(),
            message=record.getMessage(),
            user=now.user,
            verb=now.verb,
            job=now.job,
            trace=record.exc_text or "",
            refused=getattr(record, "refused", ""),
            count=getattr(record, "count", 0),
        )
        return msgspec.json.encode(line).decode()
