"""`scripts/demo`, as a stranger runs it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent.parent / "scripts"
pytestmark = pytest.mark.skipif(
    sys.platform == "win32" or shutil.which("bash") is None, reason="needs bash and local servers"
)


def demo(*args: str | Path) -> subprocess.CompletedProcess[str]:
    """It ends before an environment is made: everything here is wrong, or asks for help."""
    command = ["bash", str(SCRIPTS / "demo"), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_is_usage_and_exit_0(option: str) -> None:
    run = demo(option)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("usage: scripts/demo [FILE]\n")


def test_a_file_that_cannot_be_shown_is_named_and_exits_2(tmp_path: Path) -> None:
    for args, said in (
        ((tmp_path / "gone",), f"demo: {tmp_path}/gone is not there; check the spelling"),
        ((tmp_path,), f"demo: {tmp_path} is a folder; name a file in it"),
        (("a", "b"), "usage: scripts/demo [FILE]"),
    ):
        run = demo(*args)
        assert (run.returncode, run.stdout) == (2, "")
        assert run.stderr.startswith(said)


@pytest.mark.long
def test_a_file_of_ones_own_is_called_so_and_the_last_line_says_what_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("hello")
    run = subprocess.run(
        [sys.executable, str(SCRIPTS / "_demo.py"), "mine"],
        env={**os.environ, "PYTHONPATH": str(SCRIPTS.parent)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    mine, large, last = run.stdout.splitlines()[-3:]
    assert mine.startswith("your file ")
    assert mine.endswith(", bytes identical")
    assert "fetched by s3" in large
    assert last == "stopped   everything that was started; what stays is .venv-demo, which you may remove"
