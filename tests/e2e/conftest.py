"""Two machines that share the worker's servers: one sends, the other fetches."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers import Two

if TYPE_CHECKING:
    from conftest import Servers


@pytest.fixture
def two(servers: Servers, tmp_path: Path) -> Iterator[Two]:
    """A sender's and a receiver's machine; what they started is ended, however the test ends."""
    if sys.platform == "win32":
        pytest.skip("local servers need Linux or macOS")
    base = {
        **servers.env,
        "NATS_URL": servers.nats_url,
        "NATS_CREDS": str(servers.creds),
        "XFER_USER": "local",
    }
    (tmp_path / "out").mkdir()
    pair = Two(
        tmp=tmp_path,
        here={**base, "XFER_HOME": str(tmp_path / "home-here")},
        there={**base, "XFER_HOME": str(tmp_path / "home-there")},
        out=tmp_path / "out",
        started=[],
    )
    yield pair
    pair.close()
