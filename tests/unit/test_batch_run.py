"""What a batch sends: what is new or changed by its content, each file a job or all of them one."""

from __future__ import annotations

import asyncio
import os
from contextlib import closing

from spools import FakeSender, Spool, outcomes

from transfer.batch.selection import Rules, from_list
from transfer.batch.state import Order, State

# what is sent


def test_a_second_run_sends_only_what_is_new_or_changed_by_its_content(spool: Spool) -> None:
    for name in ("same", "touched", "changed", "sub/same"):
        spool.write(name, name)
    assert set(outcomes(spool.run()).values()) == {"sent"}
    os.utime(spool.root / "touched", (1, 1))
    spool.write("changed", "anew")
    spool.write("new", "new")
    lines = spool.run()
    assert outcomes(lines) == {
        "same": "unchanged",
        "touched": "unchanged",
        "sub/same": "unchanged",
        "changed": "sent",
        "new": "sent",
    }
    assert lines["touched"]["reason"] == "only touched"
    assert spool.room.of("changed") == [b"changed", b"anew"]
    assert len(spool.room.arrived) == 6
    assert spool.run()["touched"]["reason"] == ""  # it was noted


def test_each_file_is_a_job_and_only_so_many_run_at_once(spool: Spool) -> None:
    for number in range(20):
        spool.write(f"{number:02}", "x")
    third = asyncio.Event()

    class Held(FakeSender):
        under_way = most = 0

        async def send(self, order: Order) -> None:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            if self.under_way == 3:
                third.set()
            await third.wait()
            await super().send(order)
            self.under_way -= 1

    sender = Held(spool.room)
    spool.run(sender, concurrency=3)
    assert len(spool.room.posted) == 20
    assert sender.most == 3


def test_a_pack_is_one_job_and_what_is_unchanged_is_not_in_it(spool: Spool) -> None:
    spool.write("a", "a")
    spool.run(pack=True)
    spool.write("b", "b")
    spool.write("c", "c")
    lines = spool.run(pack=True)
    assert [sorted(files) for files in spool.room.posted.values()] == [
        [("a", b"a")],
        [("b", b"b"), ("c", b"c")],
    ]
    assert lines["b"]["job"] == lines["c"]["job"] != lines["a"]["job"]


def test_a_file_that_is_twice_in_a_list_is_sent_once(spool: Spool) -> None:
    spool.write("a", "a")
    (spool.root.parent / "list").write_bytes(b"a\na\n./a\n")
    for pack in (False, True):
        with (spool.root.parent / "list").open("rb") as names:
            spool.run(
                items=lambda _pause, names=names: from_list(names, b"\n", Rules(), str(spool.root)), pack=pack
            )
    assert spool.room.of("a") == [b"a"]


def test_rooms_and_roots_do_not_know_of_each_other(spool: Spool) -> None:
    spool.write("a", "a")
    spool.run()
    key = b"a"
    for room, root in (("other", os.path.realpath(spool.root)), ("room", "/elsewhere")):
        with closing(State(spool.db, room, root)) as state:
            assert state.known(key) is None
    with closing(spool.state()) as state:
        assert state.known(key) is not None
