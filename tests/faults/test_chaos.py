"""Seeded scenarios: processes are killed, paused and cut off at random moments; the files arrive all the same.

XFER_FAULT_ROUNDS (48) and XFER_FAULT_SEED (1, the first) choose the seeds; a failure prints its own. One again:
XFER_FAULT_SEED=17 XFER_FAULT_ROUNDS=1 python -m pytest tests/faults/test_chaos.py. Many, with a table: rounds.py.
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from pathlib import Path

import pytest
from chaos import scenario
from material import clear
from play import Play, Unclean
from proofs import proved
from stage import Stage

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(400),
    pytest.mark.skipif(sys.platform != "linux", reason="looks for leftover processes in /proc"),
]
FIRST, ROUNDS = int(os.environ.get("XFER_FAULT_SEED", "1")), int(os.environ.get("XFER_FAULT_ROUNDS", "48"))
RESULTS = os.environ.get("XFER_FAULT_RESULTS")
"""A file that gets one line of JSON a round (`rounds.py` reads it)."""


@pytest.mark.parametrize("seed", [pytest.param(n, id=f"seed{n}") for n in range(FIRST, FIRST + ROUNDS)])
def test_whatever_dies_the_same_commands_carry_on_and_leave_nothing_behind(
    seed: int, stage: Stage, sources: Path, tmp_path: Path
) -> None:
    stage.refreshed()
    mark = f"chaos-{seed}-{uuid.uuid4().hex}"
    play = Play(scenario(seed), stage, tmp_path, sources, mark)
    began, wrong = time.monotonic(), ["interrupted"]
    try:
        try:
            play.run()
        except Unclean as unclean:
            wrong = [str(unclean)]
        else:
            wrong = proved(play, stage, mark)
    finally:
        _write_down(play, wrong, time.monotonic() - began)
    assert not wrong, "\n".join([*wrong, play.told()])
    clear(tmp_path)


def _write_down(play: Play, wrong: list[str], seconds: float) -> None:
    if RESULTS is None:
        return
    facts = {
        "seed": play.scenario.seed,
        "scenario": str(play.scenario),
        "faults": [f"{fault.how} {fault.whom}" for fault in play.applied],
        "runs": [len(play.sender.runs), len(play.receiver.runs)],
        "seconds": round(seconds, 1),
        "wrong": wrong,
        "history": " · ".join(play.history),
    }
    with open(RESULTS, "a") as file:
        file.write(json.dumps(facts) + "\n")
