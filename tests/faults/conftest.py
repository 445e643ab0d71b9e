"""What the fault tests share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "e2e"))  # for its `helpers`
from helpers import Two
from material import clear
from stage import Stage

if TYPE_CHECKING:
    from tests.conftest import Servers


@pytest.fixture
def clean_env(tmp_path: Path) -> dict[str, str]:
    """For processes that start their own servers: nothing of the developer's contexts, keys and proxies."""
    root = Path(__file__).resolve().parent.parent.parent
    ours = ("XFER_", "NATS_", "AWS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "XFER_HOME": str(tmp_path / "home"), "PYTHONPATH": str(root), "NO_COLOR": "1"}


@pytest.fixture(scope="session")
def stage(
    tmp_path_factory: pytest.TempPathFactory,
    start_servers: Callable[..., Servers],
    stop_servers: Callable[[Servers], int],
) -> Iterator[Stage]:
    """The worker's servers that may be broken; whoever uses them calls `refreshed` first."""
    stage = Stage(tmp_path_factory.mktemp("stage"), start_servers, stop_servers)
    yield stage
    stage.close()


@pytest.fixture
def apart(stage: Stage, tmp_path: Path) -> Iterator[Two]:
    """A sender's and a receiver's machine on the stage, each with wires of its own to the servers."""
    stage.refreshed()
    (tmp_path / "out").mkdir()
    here, there = (stage.environment(side, tmp_path / f"home-{side}") for side in ("sender", "receiver"))
    pair = Two(tmp=tmp_path, here=here, there=there, out=tmp_path / "out", started=[])
    yield pair
    pair.close()
    stage.mend()


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where what is sent is kept from test to test."""
    folder = tmp_path_factory.mktemp("sources")
    yield folder
    clear(folder)
