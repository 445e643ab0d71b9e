"""What must stand in no log and no message: found by its shape, whoever wrote the text."""

from __future__ import annotations

import logging
import re
import traceback
from typing import Any

WITHHELD = "(withheld)"
SECRETS = re.compile(
    r"""
    xfer(?:join|room)?1[a-z0-9]{20,}                                            # tickets, invites
    | (?<=X-Amz-)(?:Signature|Credential|Security-Token)=[^&\s'")]+             # Source: AWS SigV4, query form
    | (?<=Authorization)["']?\s*[:=]\s*\S[^\r\n]*                               # the header, whatever its scheme
    | AWS4-HMAC-SHA256\s+Credential=[^\r\n]+
    | \bS[UAONC][A-Z2-7]{56}\b                                                  # nkey seeds (Source: NATS ADR-14)
    | \beyJ[\w-]{8,}\.eyJ[\w-]+\.[\w-]*                                         # JWTs: they begin with {" in base64
    | "token"\s*:\s*"[^"]+"                                                     # of a request: as good as the ticket
    | (?<=://)[^/\s@"'(]+(?=@)                                                  # a password or token in an address
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""What each looks like."""


def redact(text: str) -> str:
    """`text` without tickets, tokens, `Authorization`, signatures, nkey seeds, JWTs and passwords in addresses."""
    return SECRETS.sub(WITHHELD, text)


class _Redacted(logging.LogRecord):
    """What came with the record reaches no formatter as it was: neither its arguments nor its traceback."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        if self.exc_info and self.exc_info[0]:
            self.exc_text = redact("".join(traceback.format_exception(*self.exc_info)).rstrip())
        self.exc_info = None

    def getMessage(self) -> str:  # noqa: N802 (the name is logging's)
        return redact(super().getMessage())


def redact_logs() -> None:
    """From now on whatever this process logs is redacted, whichever library says it and whoever set the level."""
    logging.setLogRecordFactory(_Redacted)
