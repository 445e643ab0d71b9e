"""`scripts/picture` draws the README's picture from two real terminals."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(
    sys.platform == "win32" or shutil.which("bash") is None, reason="needs bash and terminals"
)


def picture(*args: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(ROOT / "scripts" / "picture"), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=550, check=False)


def size(path: Path) -> tuple[int, int]:
    """Of a PNG, in pixels."""
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", head[16:])
    return width, height


def test_usage_is_told_before_anything_is_made() -> None:
    helped = picture("--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert helped.stdout.startswith("usage: scripts/picture [PICTURE]\n")
    wrong = picture("a", "b")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("usage: ")


@pytest.mark.long
@pytest.mark.timeout(600)
def test_it_draws_what_stands_in_the_readme_anew(tmp_path: Path) -> None:
    drawn = picture(tmp_path / "new.png")
    assert drawn.returncode == 0, drawn.stdout + drawn.stderr
    assert drawn.stdout.startswith("new.png: ")
    ours = ROOT / "scripts" / "picture.png"
    assert size(tmp_path / "new.png")[0] == size(ours)[0], "as wide: 80 columns of the same letters"
    assert (tmp_path / "new.png").stat().st_size < 100_000
    assert ours.stat().st_size < 100_000
