"""The local NATS server: its program, its configuration, who may say and hear what."""

from __future__ import annotations

import json
from collections.abc import Mapping

from transfer.local.credentials import BROKER
from transfer.local.folder import Folder, write_private
from transfer.local.ports import Ports
from transfer.local.programs import find

BUCKETS = ("xfer_jobs", "xfer_quota", "xfer_lease")
"""What only brokers write: job records, what users have used, who does what only one may do at a time."""


def argv(folder: Folder) -> list[str]:
    """The command, to be run in the folder. Raises XferError if the program is not installed."""
    return [find("nats-server"), "-c", folder.nats_config.name]


def write_config(folder: Folder, ports: Ports, users: Mapping[str, str]) -> None:
    """users: name to public nkey. JSON is a subset of what nats-server reads."""
    config = {
        "server_name": "xfer-local",
        "listen": f"127.0.0.1:{ports.nats}",
        "max_payload": 1 << 20,
        "jetstream": {"store_dir": "nats", "sync_interval": "5s"},
        "authorization": {
            "users": [{"nkey": public, "permissions": permissions(user)} for user, public in users.items()]
        },
    }
    write_private(folder.nats_config, json.dumps(config, indent=1).encode())


def permissions(user: str) -> dict[str, object]:
    """What the server lets a user say and hear: this makes a subject's user token an identity."""
    if user == BROKER:
        return {
            "publish": {
                "allow": [
                    "$JS.API.>",
                    "$JS.ACK.>",
                    *(f"$KV.{bucket}.>" for bucket in BUCKETS),
                    "xfer.control.>",
                    "xfer.work.>",
                    "xfer.dead.>",
                ]
            },
            "subscribe": {"allow": ["xfer.api.>", "$SRV.>", f"_INBOX_{user}.>"]},
            # Answers to requests; also a KV listing's answers to flow control.
            "allow_responses": {"max": 1, "expires": "2m"},
        }
    return {
        "publish": {"allow": [f"xfer.api.{user}.>", "xfer.peer.>", f"xfer.events.{user}.>"]},
        "subscribe": {
            "allow": [
                f"_INBOX_{user}.>",
                *(f"xfer.{what}.{user}.>" for what in ("peer", "events", "control")),
            ]
        },
    }


def url(ports: Ports) -> str:
    return f"nats://127.0.0.1:{ports.nats}"
