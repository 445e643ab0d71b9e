"""How long `xfer --version` and help take: whole processes, medians, beside a bare interpreter."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

GOALS = {"xfer --version": 0.150, "xfer --help": 0.250, "xfer send --help": 0.250}
"""Seconds on 2 cores, the project's own goals. Met or missed, the exit code is 0: machines differ."""
RESULTS = Path("bench-results/startup.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15, help="processes of each kind [15]")
    runs = parser.parse_args().runs

    xfer = str(Path(sys.executable).with_name("xfer"))
    commands = {"python -c pass": [sys.executable, "-c", "pass"]}
    commands |= {line: [xfer, *line.split()[1:]] for line in GOALS}

    seconds: dict[str, list[float]] = {line: [] for line in commands}
    for _ in range(runs):  # in turns, so that a slow moment of the machine hits all alike
        for line, command in commands.items():
            seconds[line].append(_timed(command))

    rows = {
        line: {"median": statistics.median(took), "min": min(took), "goal": GOALS.get(line)}
        for line, took in seconds.items()
    }
    print(f"{'':18} {'median':>8} {'min':>8} {'goal':>8}")
    for line, took in seconds.items():
        goal = f"{GOALS[line] * 1000:5.0f} ms" if line in GOALS else ""
        print(f"{line:18} {statistics.median(took) * 1000:5.0f} ms {min(took) * 1000:5.0f} ms {goal:>8}")

    result = {
        "subject": "startup",
        "runs": runs,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "seconds": rows,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"written to {RESULTS}")


def _timed(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
