"""The mutants of the core, tried against its unit and contract tests. Started by scripts/mutate."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scripts.mutation.mutants import Mutant, mutants_of  # noqa: E402
from scripts.mutation.survivors import read_survivors  # noqa: E402
from scripts.mutation.trial import Outcome, Red, Trial  # noqa: E402

LIST = ROOT / "tests" / "survivors.txt"
COPIED = ("cli", "transfer", "scripts", "tests", "pyproject.toml", "README.md")

STATES = ("sctp_states", "sctp_sending", "sctp_receiving", "sctp_timing", "sctp_packet", "sctp_resets")
MODULES: dict[str, tuple[str, ...]] = {
    "bech32m": ("ticket", "vectors"),
    "chunks": ("chunks", "vectors"),
    "codec": ("codec", "vectors"),
    "digests": ("digests",),
    "ledger": ("ledger",),
    "paths": ("paths",),
    "plan": ("plan",),
    "seal": ("seal", "codec", "vectors"),
    "session": ("session",),
    "ticket": ("ticket", "vectors"),
    "wire": ("wire", "vectors"),
    "sctp/association": (*STATES, "sctp_association"),
    "sctp/dcep": ("dcep",),
    "sctp/handshake": (*STATES, "sctp_association"),
    "sctp/liveness": ("liveness", "sctp_timing"),
    "sctp/outbox": (*STATES, "sctp_association"),
    "sctp/packet": STATES,
    "sctp/pmtu": STATES,
    "sctp/receiving": STATES,
    "sctp/resets": STATES,
    "sctp/sending": STATES,
    "sctp/timing": STATES,
    "sctp/congestion": ("sctp_model",),
    "sctp/cubic": ("sctp_cubic",),
    "sctp/model": ("sctp_model",),
}
"""The unit tests that say what a module does. """


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/mutate", description=__doc__)
    parser.add_argument(
        "modules", nargs="*", metavar="MODULE", help=f"of: {' '.join(MODULES)}; without any: all"
    )
    parser.add_argument(
        "--sample", type=int, metavar="N", help="so many mutants of each module, drawn at random"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the sample (1)")
    parser.add_argument(
        "--only", action="append", metavar="TEXT", help="only mutants whose name ends so; may be repeated"
    )
    parser.add_argument("--list", action="store_true", help="name the mutants, and try none")
    given = parser.parse_args()
    if unknown := [name for name in given.modules if name not in MODULES]:
        parser.error(f"no such module: {' '.join(unknown)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the copy goes
    reasons = read_survivors(LIST.read_text())
    right = True
    with tempfile.TemporaryDirectory(prefix="xfer-mutation-") as folder:
        copy = Path(folder).resolve()
        _copy_tree(copy)
        os.chdir(copy)
        sys.path[0] = str(copy)
        for name in given.modules or MODULES:
            mutants = mutants_of((copy / "transfer" / f"{name}.py").read_bytes())
            whole = {mutant.name for mutant in mutants}
            if given.only:
                mutants = [mutant for mutant in mutants if mutant.name.endswith(tuple(given.only))]
            if given.sample is not None and given.sample < len(mutants):
                chosen = random.Random(given.seed).sample(range(len(mutants)), given.sample)
                mutants = [mutants[at] for at in sorted(chosen)]
            if given.list:
                print(*(f"{_file(name)}:{mutant.line} {mutant.name}" for mutant in mutants), sep="\n")
                continue
            try:
                right &= _tried(copy, name, mutants, whole, reasons)
            except Red as red:
                right = False
                print(red)
    return 0 if right else 1


def _file(name: str) -> str:
    return f"transfer/{name}.py"


def _branch(lines: list[str], first: int, second: int) -> str:
    """A branch that no test takes, by what stands on its lines; a line that is not run leads to itself."""
    after = lines[second - 1].strip() if second > 0 else "the end"
    return f"branch: {lines[first - 1].strip()} => {after}"


def _copy_tree(copy: Path) -> None:
    for part in COPIED:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(
                source, copy / part, ignore=shutil.ignore_patterns("__pycache__", "bench-results")
            )
        else:
            shutil.copy(source, copy / part)


def _tried(copy: Path, name: str, mutants: list[Mutant], whole: set[str], reasons: dict[str, str]) -> bool:
    """Try a module's mutants and print what became of them. Whether that is what the list says.

    whole: the names of all its mutants. reasons: of the list, by name with the file before it.
    """
    file = _file(name)
    tests = [f"tests/unit/test_{test}.py" for test in MODULES[name]]
    trial = Trial(copy, file, tests)
    source = (copy / file).read_bytes()
    lines = source.decode().splitlines()
    known = {
        listed.removeprefix(f"{file} "): reason
        for listed, reason in reasons.items()
        if listed.startswith(f"{file} ")
    }
    branches = {_branch(lines, *branch): branch[0] for branch in trial.base.missing}
    gone = [listed for listed in known if listed not in whole and listed not in branches]
    right = not gone and set(branches) <= set(known)
    for branch, line in branches.items():
        print(f"{file}:{line} {branch}" + (f"  [{known[branch]}]" if branch in known else ""))
    for listed in gone:
        print(f"{file} {listed}: is listed, but does not exist, or is taken")
    counts = dict.fromkeys(Outcome, 0)
    for at, mutant in enumerate(mutants, 1):
        outcome = trial.run(mutant.line, mutant.applied(source))
        counts[outcome] += 1
        reason = known.get(mutant.name)
        if outcome is Outcome.SURVIVED:
            right &= reason is not None
            print(f"{file}:{mutant.line} {mutant.name}" + (f"  [{reason}]" if reason else ""), flush=True)
        elif reason:
            right = False
            print(f"{file}:{mutant.line} {mutant.name}: is listed as surviving, but was {outcome.value}")
        if sys.stderr.isatty():
            print(f"\r{name} {at}/{len(mutants)} ", end="", file=sys.stderr, flush=True)
    survived = counts[Outcome.SURVIVED]
    share = 100 * (1 - survived / len(mutants)) if mutants else 100.0
    print(
        f"{name}: {len(mutants)} mutants, {counts[Outcome.KILLED]} killed, {survived} survived,"
        f" {counts[Outcome.TIMEOUT]} timeouts, {share:.1f} %; {len(trial.base.missing)} branches are not taken",
        flush=True,
    )
    return right


if __name__ == "__main__":
    sys.exit(main())
