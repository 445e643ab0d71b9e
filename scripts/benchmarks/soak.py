"""Seeded transfers of our own channel over seeded links with loss, reordering and duplicates: all must be exact (root, Linux).

Both ends are processes of their own; all between them is real but the link: sockets, ICE, DTLS, SCTP.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from scripts.benchmarks.rig.link import build, why_not
from scripts.benchmarks.rig.soaking import drawn, soak


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench soak", description=__doc__)
    parser.add_argument("--seeds", type=int, default=300, help="how many [300]")
    parser.add_argument("--first", type=int, default=1, help="of them [1]")
    args = parser.parse_args()
    if reason := why_not():
        sys.exit(f"no links can be made: {reason}")
    signal.signal(signal.SIGTERM, _stop)
    failed = []
    with tempfile.TemporaryDirectory(prefix="xfer-soak-") as folder:
        program = build(Path(folder))
        for seed in range(args.first, args.first + args.seeds):
            shape, size = drawn(seed)
            try:
                took = soak(seed, program)
                told = f"{took['seconds']:.1f} s, set-up {took['setup']:.2f} s"
            except OSError as error:
                failed.append(seed)
                told = f"FAILED: {error}"
            print(f"seed {seed}: {size / 1e6:.2f} MB, {shape}: {told}", flush=True)
    if failed:
        sys.exit(
            f"failed: {len(failed)} of {args.seeds}; again: --seeds 1 --first {failed[0]}; all: {failed}"
        )
    print(f"all {args.seeds} exact")


def _stop(_signum: int, _frame: object) -> NoReturn:
    """So that what was made is undone."""
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    main()
