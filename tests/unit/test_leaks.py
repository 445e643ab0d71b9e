"""The check that reads all logs of a test session finds what it is made for."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from tests.leaks import LOGS, leaks_below, leaks_in
from transfer.local.credentials import make_nkey
from transfer.ticket import Ticket

MADE = {
    "ticket": lambda: str(Ticket.new()),
    "header": lambda: f"Authorization: AWS4-HMAC-SHA256 Credential=a/b, Signature={secrets.token_hex(32)}",
    "signature": lambda: f"GET /b/k?X-Amz-Signature={secrets.token_hex(32)} HTTP/1.1",
    "seed": lambda: make_nkey()[0],
}


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("said")


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("name", ["log", "broker.log", "up.stderr", "deep/down/nats.log"])
def test_a_secret_in_any_log_is_found_and_not_shown_whole(folder: Path, kind: str, name: str) -> None:
    secret, path = MADE[kind](), folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"xfer broker: ready\nit said {secret} and went on\n")
    found = list(leaks_below(folder))
    path.unlink()  # or the session's own check would find it
    assert len(found) == 1
    assert found[0].startswith(f"{name}: ")
    assert secret not in found[0]


def test_a_log_without_secrets_is_fine(folder: Path) -> None:
    (folder / "log").write_text("xfer broker: ready, bucket xfer\nwaiting for NATS: connection refused\n")
    (folder / "ticket.txt").write_text(str(Ticket.new()))  # no log
    assert list(leaks_below(folder)) == []
    assert leaks_in("swept 3 jobs that were over") == []
    assert "*.log" in LOGS
