"""Why there is no connection, in the words that all servers' errors share."""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl

REFUSED = "connection refused"
_KINDS = {
    errno.ECONNREFUSED: REFUSED,
    errno.ENETUNREACH: "the network is unreachable from here",
    errno.ENETDOWN: "the network is down here",
    errno.EHOSTUNREACH: "no route leads to that host from here",
    errno.ETIMEDOUT: "timed out",
}


def why(error: BaseException) -> str | None:
    """What the system said, at the bottom of what libraries made of it; None if it said nothing.

    Their texts hold addresses and URLs, which may be secrets: only the number of the error counts.
    """
    below: BaseException | None = error
    while below is not None:
        reason = getattr(below, "reason", "") if isinstance(below, ssl.SSLError) else ""
        if reason:  # OpenSSL's constant; the number is none of the system's
            return f"TLS failed: {reason.replace('_', ' ').lower()}"
        if isinstance(below, OSError) and (number := _number(below)) is not None:
            return _KINDS.get(number) or os.strerror(number).lower()
        below = below.__cause__ or below.__context__
    return None


def _number(error: OSError) -> int | None:
    """asyncio makes one error without a number of those of several addresses: a refusal tells most, then the last."""
    if isinstance(error, ssl.SSLError | socket.gaierror):  # they have numbers of their own
        return None
    if error.errno is not None:
        return error.errno if error.errno in errno.errorcode else None
    numbers = [int(found) for found in re.findall(r"\[Errno (\d+)\]", str(error))]
    if errno.ECONNREFUSED in numbers:
        return errno.ECONNREFUSED
    return numbers[-1] if numbers else None
