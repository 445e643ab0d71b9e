"""Many rounds of the seeded scenarios, with a table at the end: `python tests/faults/rounds.py --rounds 200`."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

TEST = Path(__file__).with_name("test_chaos.py")
COLUMNS = "{:>6} {:>6} {:>9}  {:22} {:14} {}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1, help="the first one")
    parser.add_argument("-n", "--workers", default="auto", help="as pytest-xdist takes it; 0: one process")
    parser.add_argument("--keep", type=Path, help="write one line of JSON a round to this file")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rounds-") as folder:
        results = asked.keep or Path(folder, "results")
        results.write_text("")
        env = {
            **os.environ,
            "XFER_FAULT_ROUNDS": str(asked.rounds),
            "XFER_FAULT_SEED": str(asked.seed),
            "XFER_FAULT_RESULTS": str(results.absolute()),
        }
        command = [sys.executable, "-m", "pytest", "-q", "-n", asked.workers, str(TEST)]
        code = subprocess.run(command, env=env, cwd=TEST.parent.parent.parent, check=False).returncode
        show([json.loads(line) for line in results.read_text().splitlines()])
    return code


def show(rounds: list[dict[str, Any]]) -> None:
    rounds.sort(key=lambda one: one["seed"])
    print(COLUMNS.format("seed", "s", "runs", "what", "how it ended", "what broke"))
    for one in rounds:
        ended = "; ".join(one["wrong"]).splitlines()[0] if one["wrong"] else "clean"
        what = one["scenario"].split(": ", 1)[1].split(" --wait")[0].replace("--via ", "")
        runs = "{} + {}".format(*one["runs"])
        print(COLUMNS.format(one["seed"], one["seconds"], runs, what, ended[:60], ", ".join(one["faults"])))
    broken = Counter(fault for one in rounds for fault in one["faults"])
    unclean = [one["seed"] for one in rounds if one["wrong"]]
    print(
        f"\n{len(rounds)} rounds, {broken.total()} faults, {len(rounds) - len(unclean)} clean, unclean: {unclean}"
    )
    print(", ".join(f"{fault} {count}" for fault, count in sorted(broken.items())))


if __name__ == "__main__":
    sys.exit(main())
