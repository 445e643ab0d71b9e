"""`xfer batch` and `xfer fetch --room` as cron runs them.

With --cycles: while both, the broker and NATS are killed at random moments of a seed; everything must be delivered once and
whole in the end, and nothing be left. A failure prints its seed, its folder and what happened when. With --files: so many files
in one batch; how long, how much memory, and whether the report is true, line by line.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

from scripts.benchmarks.rig.cron import Cron
from scripts.benchmarks.rig.datasets import remove
from scripts.benchmarks.rig.many import many
from scripts.benchmarks.rig.mortal import Mortal


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/bench cron", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cycles", type=int, default=200, help="with faults, in all [200]")
    parser.add_argument("--seed", type=int, default=1, help="of the first ones [1]")
    parser.add_argument(
        "--each", type=int, default=50, help="cycles of a seed; then servers and the next seed are fresh [50]"
    )
    parser.add_argument("--files", type=int, default=0, help="instead of cycles: one batch of so many files")
    parser.add_argument("--keep", type=Path, help="work in this folder, and leave everything there")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, _stop)
    if args.files:
        folder = Path(tempfile.mkdtemp(prefix="xfer-cron-", dir=args.keep))
        if wrong := many(folder, args.files, _say):
            sys.exit("\n".join([*wrong[:20], f"see {folder}"]))
        if not args.keep:
            remove(folder)
        return
    ended, seed, failed = 0, args.seed, []
    while ended < args.cycles:
        cycles = min(args.each, args.cycles - ended)
        folder = Path(tempfile.mkdtemp(prefix=f"xfer-cron-{seed}-", dir=args.keep))
        if not _row(folder, seed, cycles):
            failed.append(seed)
        elif not args.keep:
            remove(folder)
        ended, seed = ended + cycles, seed + 1
    if failed:
        again = f"--seed {failed[0]} --cycles {args.each} --each {args.each}"
        sys.exit(f"failed: seeds {failed}; again: scripts/bench cron {again}")
    print(f"{ended} cycles, seeds {args.seed} to {seed - 1}: each version once and whole, and nothing left")


def _row(folder: Path, seed: int, cycles: int) -> bool:
    began = time.monotonic()
    _say(f"seed {seed}: {cycles} cycles in {folder}")
    servers = Mortal(folder / "servers")
    try:
        cron = Cron(folder, servers, seed, _say)
        cron.run(cycles)
    finally:
        servers.close()
    _say(f"seed {seed}: {time.monotonic() - began:.0f} s; {cron.figures()}")
    (folder / "history").write_text(cron.told())
    if cron.wrong:
        _say(cron.told())
    return not cron.wrong


def _say(text: str) -> None:
    print(text, flush=True)


def _stop(_signum: int, _frame: object) -> NoReturn:
    """So that what was made is undone."""
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    main()
