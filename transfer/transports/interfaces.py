"""This host's network addresses that a peer may reach, and the choice of some of them by the user."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from transfer.errors import UsageError

MAX_HOST_ADDRESSES = 16
BRIDGES = ("docker", "br-", "veth", "virbr", "vmnet", "vboxnet")
"""Names of interfaces that lead into this host's own containers and machines."""


def host_addresses(chosen: Sequence[str] = ()) -> list[str]:
    """Those that a peer may reach.

    Those into its own containers only if there is no other, loopback only where there is nothing else at all.
    chosen: names and addresses of interfaces; if any are given, their addresses and no others.
    """
    ranked: tuple[list[str], list[str], list[str]] = ([], [], [])
    for name, addresses in _interfaces().items():
        if chosen:
            ranked[0].extend(text for text in addresses if name in chosen or _is_among(text, chosen))
            continue
        for text in addresses:
            loopback, bridge = ipaddress.ip_address(text).is_loopback, name.startswith(BRIDGES)
            ranked[2 if loopback else 1 if bridge else 0].append(text)
    return next((addresses for addresses in ranked if addresses), [])[:MAX_HOST_ADDRESSES]


def check_interfaces(chosen: Sequence[str]) -> None:
    """Raises UsageError for the first that is neither the name of an interface with an address nor an address."""
    if not chosen:
        return
    there = _interfaces()
    for text in chosen:
        if text not in there and not any(
            _is_among(address, [text]) for found in there.values() for address in found
        ):
            listed = ", ".join(f"{name} ({', '.join(found)})" for name, found in there.items())
            raise UsageError(
                f"no network interface of this host is called {text!r}, and none has it as an address",
                hint=f"there are {listed}" if listed else "this host has none",
            )


def _interfaces() -> dict[str, list[str]]:
    """Name to addresses, without link-local ones; interfaces that have no other are left out."""
    import ifaddr

    found: dict[str, list[str]] = {}
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            text = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
            if not ipaddress.ip_address(text).is_link_local:
                found.setdefault(str(adapter.nice_name), []).append(text)
    return found


def _is_among(address: str, chosen: Sequence[str]) -> bool:
    """However an IPv6 address is written."""
    for text in chosen:
        try:
            if ipaddress.ip_address(text) == ipaddress.ip_address(address):
                return True
        except ValueError:
            continue
    return False
