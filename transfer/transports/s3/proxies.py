"""The proxy on the way to the store: HTTPS_PROXY, HTTP_PROXY and NO_PROXY, in either letter case."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from transfer.errors import UsageError


def proxy_for(url: str) -> str:
    """Its URL, empty for none. May hold a password: `shown` is for people. Raises UsageError for one that is no HTTP proxy.

    Source: the variables are those of curl and Python's urllib; a scheme that is left out is http, as there.
    """
    from urllib.request import (
        getproxies,
        proxy_bypass,
    )  # 60 ms, which a transfer from peer to peer need not spend

    parsed = urlsplit(url)
    given = getproxies().get(parsed.scheme, "").strip()
    if not given or proxy_bypass(parsed.hostname or "") or proxy_bypass(parsed.netloc.rpartition("@")[2]):
        return ""
    proxy = given if "://" in given else f"http://{given}"
    scheme, host = urlsplit(proxy).scheme, _address(proxy)
    if scheme not in ("http", "https") or not host:
        raise UsageError(
            f"{parsed.scheme.upper()}_PROXY names no HTTP proxy: {scheme}://{host}",
            hint="write it as http://HOST:PORT, or name the store's host in NO_PROXY",
        )
    return proxy


def shown(proxy: str) -> str:
    """Without name and password."""
    return f"{urlsplit(proxy).scheme}://{_address(proxy)}"


def credentials(proxy: str) -> str | None:
    """`name:password` for basic authentication at the proxy (RFC 9110, 11.7.1); None if it asks for none."""
    given, at, _ = urlsplit(proxy).netloc.rpartition("@")
    return unquote(given) if at else None


def _address(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]
