"""`scripts/bench s3` by itself: servers, a transfer up and down, tables and JSON, nothing left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
BENCH = ROOT / "scripts/benchmarks/s3.py"


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_bench_measures_us_where_no_other_tool_is_installed(tmp_path: Path) -> None:
    command = [sys.executable, BENCH, "--quick", "--links", "loopback", "--files", "tree"]
    chosen = ["--rows", "matrix,resume,events", "--work", tmp_path / "work"]
    ran = subprocess.run([*command, *chosen], cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert ran.returncode == 0, ran.stderr
    assert "not installed: s5cmd, rclone, aws-classic, aws-crt" in ran.stderr
    (written,) = (tmp_path / "bench-results").glob("s3-quick*.json")
    found = json.loads(written.read_text())
    assert [(cell["tool"], cell["way"], cell["failure"]) for cell in found["cells"]] == [
        ("xfer", "up", None),
        ("xfer", "down", None),
    ]
    assert all(len(cell["seconds"]) == 1 and min(cell["seconds"]) > 0 for cell in found["cells"])
    assert [(row["name"], row["failure"]) for row in found["rows"]] == [("resume", None), ("events", None)]
    assert {goal["name"] for goal in found["goals"]} >= {
        "time of the rerun, loopback",
        "progress event to a watcher, p99, loopback",
    }
    assert [kept.name for kept in (tmp_path / "work").iterdir()] == ["data"]
