"""The local NATS server: its program, its configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping

from transfer.local.folder import Folder, write_private
from transfer.local.listening import Listening
from transfer.local.ports import LOOPBACK, Ports
from transfer.local.programs import find
from transfer.permissions import permissions


def argv(folder: Folder) -> list[str]:
    """The command, to be run in the folder. Raises XferError if the program is not installed."""
    return [find("nats-server"), "-c", folder.nats_config.name]


def write_config(
    folder: Folder, ports: Ports, users: Mapping[str, str], listening: Listening | None = None
) -> None:
    """users: name to public nkey. listening: None means loopback, without TLS.

    JSON is a subset of what nats-server reads.
    """
    config = {
        "server_name": "xfer-local",
        "listen": f"{listening.host if listening else LOOPBACK}:{ports.nats}",
        "max_payload": 1 << 20,
        "jetstream": {"store_dir": "nats", "sync_interval": "5s"},
        "authorization": {
            "users": [{"nkey": public, "permissions": permissions(user)} for user, public in users.items()]
        },
    }
    if listening is not None:
        config["tls"] = {"cert_file": str(folder.certificate), "key_file": str(folder.certificate_key)}
    write_private(folder.nats_config, json.dumps(config, indent=1).encode())


def url(ports: Ports, listening: Listening | None = None) -> str:
    return f"tls://{listening.name}:{ports.nats}" if listening else f"nats://{LOOPBACK}:{ports.nats}"
