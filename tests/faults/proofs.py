"""What must be true once a scenario has ended: the files, the ledgers, the processes, the store."""

from __future__ import annotations

import os
import time

from helpers import same_tree
from material import rows_in, same
from play import Play
from stage import Stage, pids_with

from tests.orphans import live_jobs, objects_of, orphans_within
from transfer.api import JobState

SWEPT_WITHIN = 20.0
"""Seconds in which the broker, which sweeps every second here, has removed what no job owns."""


def proved(play: Play, stage: Stage, mark: str) -> list[str]:
    """What is wrong, each as one line; [] is what is wanted."""
    wrong = [*_files(play), *_traces(play)]
    wrong += [f"still runs: {line}" for line in pids_with(mark)]
    if len(play.tickets) != 1:
        wrong.append(f"{len(play.tickets)} tickets for one source")
    stage.answering()
    return [*wrong, *_store(play, stage), *_servers(stage)]


def _files(play: Play) -> list[str]:
    wrong = []
    if not same(play.source, play.target):
        wrong.append("what arrived is not what was sent")
    elif play.source.is_dir():
        try:
            same_tree(play.source, play.target)
        except AssertionError as error:
            wrong.append(f"names, modes or times differ: {error}")
    wrong += [
        f"left over at the receiver: {name}" for name in os.listdir(play.out) if name != play.target.name
    ]
    return wrong


def _traces(play: Play) -> list[str]:
    wrong = []
    for name, home in play.homes.items():
        wrong += [f"the {name}'s ledger has {count} {table}" for table, count in rows_in(home).items()]
        errors = home / "state" / "errors"
        if errors.exists():
            wrong += [f"the {name} met a bug: {file.read_text()[-800:]}" for file in errors.iterdir()]
    return wrong


def _store(play: Play, stage: Stage) -> list[str]:
    """Nothing orphaned; of this job, what its record says, and nothing at all once it was delivered."""
    lost = orphans_within(stage.servers, SWEPT_WITHIN)
    deadline = time.monotonic() + SWEPT_WITHIN
    while (wrong := _of_jobs(play, stage)) and time.monotonic() < deadline:
        time.sleep(0.3)
    return [*(f"orphaned: {line}" for line in lost), *wrong]


def _of_jobs(play: Play, stage: Stage) -> list[str]:
    records = live_jobs(stage.servers)
    wrong = []
    for job in play.jobs:
        keys = objects_of(stage.servers, job)
        record = records.get(job)
        if record is None:
            wrong += [f"a job that is over has {key}" for key in keys]
        elif record.state is JobState.OPEN:
            wrong.append(f"job {job} is still open")
        elif play.scenario.fetches is not None:
            wrong.append(f"job {job} is kept although it was fetched as often as it may be")
        else:
            wanted = [f"xfer/{record.folder}/{number:06d}" for number in range(record.segments)]
            wrong += [f"job {job}: {key} is missing or too much" for key in set(wanted) ^ set(keys)]
    return wrong


def _servers(stage: Stage) -> list[str]:
    told = stage.log("broker").splitlines()
    return [
        f"the broker: {line}"
        for line in told
        if "a bug in" in line or "unexpected failure" in line or "Traceback" in line
    ]
