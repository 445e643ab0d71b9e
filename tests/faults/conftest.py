"""What the fault tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def clean_env(tmp_path: Path) -> dict[str, str]:
    """For processes that start their own servers: nothing of the developer's contexts, keys and proxies."""
    root = Path(__file__).resolve().parent.parent.parent
    ours = ("XFER_", "NATS_", "AWS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "XFER_HOME": str(tmp_path / "home"), "PYTHONPATH": str(root), "NO_COLOR": "1"}
