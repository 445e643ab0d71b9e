"""`scripts/bench s3` and `scripts/bench webrtc` by themselves: servers, transfers, tables and JSON, nothing left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
BENCH = str(ROOT / "scripts/benchmarks/s3.py")
DIRECT = str(ROOT / "scripts/benchmarks/webrtc.py")


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_bench_measures_us_where_no_other_tool_is_installed(tmp_path: Path) -> None:
    command = [sys.executable, BENCH, "--quick", "--links", "loopback", "--files", "tree"]
    chosen = ["--rows", "matrix,resume,events", "--work", str(tmp_path / "work")]
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


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_bench_of_direct_transfers_measures_its_rows_and_writes_a_table(tmp_path: Path) -> None:
    parts = [
        "--parts",
        "channel,turn,setup,whole,first,failover,memory",
        "--rows",
        "loopback",
        "--rounds",
        "1",
    ]
    command = [sys.executable, DIRECT, *parts, "--size", "50M", "--work", str(tmp_path / "work")]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "left out: magic-wormhole: magic-wormhole is not installed" in ran.stderr
    assert "left out: croc: croc is not installed" in ran.stderr
    found = json.loads((tmp_path / "bench-results/webrtc.json").read_text())
    rows = {(row["part"], row["name"]): row for row in found["rows"]}
    turn = [] if "TURN" in found["left_out"] else ["turn"] * 2
    whole = ["whole"] * 3
    assert [part for part, _ in rows] == [
        *["channel"] * 3, *turn, "setup", *whole, "first", "failover", *["memory"] * 2,
    ]  # fmt: skip
    for row in rows.values():
        assert row["failures"] == {}
        assert all(len(runs) == 1 and min(runs) > 0 for runs in row["runs"].values())
    assert set(rows["channel", "loopback, without GSO and GRO"]["runs"]) == {"xfer", "aiortc"}
    assert "| loopback, without GSO and GRO (1 round) |" in (tmp_path / "bench-results/webrtc.md").read_text()
    assert [kept.name for kept in (tmp_path / "work").iterdir()] == []
