"""The bench of direct transfers: its goals, its tables, what it keeps from run to run, and what a soak's seeds mean."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from scripts.benchmarks.rig import datasets, pair, soaking, tally, wanted
from scripts.benchmarks.rig.link import Namespace
from scripts.benchmarks.rig.tally import Row, Tally, Wanted


def speeds(*ours: float, plain: tuple[float, ...] = (), name: str = "loopback") -> Row:
    row = Row("channel", name, "MB/s", [Wanted(150.0), Wanted(10.0, "aiortc")])
    for tool, runs in (("xfer", ours), ("aiortc", plain)):
        for rate in runs:
            row.take(tool, {"MB/s": rate, "CPU s": rate / 100})
    return row


def test_a_speed_is_judged_by_medians_and_beside_the_named_tool() -> None:
    goals = tally.judge(speeds(150.0, 150.0, 1.0, plain=(15.0, 15.0, 99.0)))
    assert [(goal.wanted, goal.got, goal.met) for goal in goals] == [
        ("at least 150 MB/s", "150 MB/s", True),
        ("10 times as fast as aiortc", "10.00 times", True),
    ]
    assert [goal.met for goal in tally.judge(speeds(149.0, plain=(15.0,)))] == [False, False]


@pytest.mark.parametrize(("ours", "met"), [(5.0, True), (5.1, False)])
def test_of_seconds_less_is_better(ours: float, met: bool) -> None:
    row = Row("whole", "x", "s", [Wanted(5.0), Wanted(2.0, "croc")], {"xfer": [ours], "croc": [10.0]})
    assert [goal.met for goal in tally.judge(row)] == [met, met]


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    assert [goal.met for goal in tally.judge(speeds(200.0))] == [True, None]
    assert [goal.met for goal in tally.judge(speeds(plain=(9.0,)))] == [None, None]


def test_a_table_is_markdown_with_a_column_for_each_tool_ours_first() -> None:
    failed = Row("channel", "link", "MB/s", [Wanted(9.0)], {"croc": [8.0]}, failures={"xfer": "it | broke"})
    lines = tally.table([failed, speeds(151.26, 140.0, 152.0, plain=(10.0,))], {"aiortc": "aiortc 1.16"})
    assert lines == [
        "| link | xfer | croc | aiortc 1.16 | goal |",
        "|---|---|---|---|---|",
        "| link (1 round) | failed | 8 |  | at least 9 MB/s: not measured |",
        "| loopback (3 rounds) | 151 |  | 10 | at least 150 MB/s: met (151 MB/s); "
        "10 times as fast as aiortc: met (15.13 times) |",
    ]


def test_a_row_is_told_with_its_spread_and_its_failures() -> None:
    row = speeds(100.0, 120.0, 110.0)
    row.failures["aiortc"] = "not done after 90 s"
    assert tally.told(row) == (
        "channel  loopback: xfer 110 MB/s (100 to 120), CPU s 1.1 | aiortc failed: not done after 90 s"
        " | at least 150 MB/s: missed (110 MB/s); 10 times as fast as aiortc: not measured"
    )


def test_a_run_keeps_what_an_earlier_one_measured_until_it_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "results" / "webrtc.json"
    first = Tally(path)
    first.tools["aiortc"] = "aiortc 1.16"
    first.add(speeds(100.0, name="a"))
    first.add(speeds(200.0, plain=(10.0,), name="b"))
    second = Tally(path)
    second.add(speeds(300.0, name="a"))
    found = json.loads(path.read_text())
    assert [(row["name"], row["runs"]["xfer"]) for row in found["rows"]] == [("a", [300.0]), ("b", [200.0])]
    assert all(row["measured"] for row in found["rows"])
    assert found["tools"] == {"aiortc": "aiortc 1.16"}
    assert [goal["met"] for goal in found["goals"]] == [True, None, True, True]
    assert Tally(path).rows == second.rows
    assert "| b (1 round) | 200 | 10 |" in path.with_suffix(".md").read_text()


@pytest.mark.parametrize("there", ["", "{}", '{"format": 1, "rows": [{"name": "of another form"}]}'])
def test_results_of_another_form_or_machine_are_not_mixed_with_new_ones(tmp_path: Path, there: str) -> None:
    path = tmp_path / "webrtc.json"
    path.write_text(there)
    assert Tally(path).rows == []


def test_a_run_has_failed_only_where_it_has_no_figure_of_ours(tmp_path: Path) -> None:
    found = Tally(tmp_path / "webrtc.json")
    missed = speeds(1.0)
    missed.failures["aiortc"] = "slow"
    found.add(missed)
    assert not found.failed
    found.add(Row("memory", "x", "MB", failures={"xfer": "exit 1"}))
    assert found.failed
    assert not Tally(tmp_path / "webrtc.json").failed, "an earlier run's failure is not this run's"


def test_every_row_has_a_name_of_its_own_and_a_goal() -> None:
    channel, whole = wanted.channel_rows(), wanted.whole_rows(["cubic", "bbr"], "cubic")
    for names in ([row.name for row in channel], [row.name for row in whole]):
        assert len(set(names)) == len(names)
    assert all(row.wanted for row in channel)
    assert [row.name for row in whole if row.shape.rate][:2] == [
        "100 Mbit/s, 20 ms, 90 MB, TCP cubic",
        "100 Mbit/s, 20 ms, 90 MB, TCP bbr",
    ]
    goals = {row.name: [goal.limit for goal in row.wanted] for row in channel}
    assert goals["loopback, without GSO and GRO"] == [4.0]
    assert goals["1000 Mbit/s, 80 ms, 2 % loss each way"] == [22.0]
    assert goals["100 Mbit/s, 20 ms"] == [10.6]


def test_a_seed_always_draws_the_same_link_and_seeds_differ() -> None:
    drawn = [soaking.drawn(seed) for seed in range(300)]
    assert drawn == [soaking.drawn(seed) for seed in range(300)]
    shapes = [shape for shape, _ in drawn]
    assert len({(s.rate, s.rtt) for s in shapes}) == 300
    for share, most in (("loss", 8), ("reorder", 20), ("duplicate", 10)):
        values = [getattr(shape, share) for shape in shapes]
        assert min(values) == 0
        assert most * 0.8 < max(values) <= most
    assert {min(s.mtu for s in shapes), max(s.mtu for s in shapes)} == {1280, 9000}
    assert all(0.49e6 < size < 4e6 and size * 8 / shape.rate <= 8.01 for shape, size in drawn)


def test_a_soaks_messages_are_those_of_its_seed_and_as_many_bytes_as_wanted() -> None:
    made = list(datasets.messages(5, 300_000, 5000))
    assert made == list(datasets.messages(5, 300_000, 5000))
    assert made != list(datasets.messages(6, 300_000, 5000))
    assert sum(map(len, made)) == 300_000
    assert {min(map(len, made)), max(map(len, made))} == {1, 5000}


def ends(sender: str, receiver: str) -> dict[str, float]:
    """How a pair of one-line programs ends."""
    ready = "print('ready', flush=True); input();"
    texts = {pair.SENDER: sender, pair.RECEIVER: receiver}
    return pair.run(lambda role: ["-c", ready + texts[role]], Namespace(), Namespace(), 20.0)


def test_what_one_end_says_the_other_hears_up_to_the_figures() -> None:
    sender = """print('3', flush=True); print('{"seconds": ' + input() + '}', flush=True)"""
    assert ends(sender, "print(int(input()) + 4, flush=True); input()") == {"seconds": 7}


@pytest.mark.parametrize(
    ("sender", "receiver"),
    [
        ("import sys; sys.exit('it broke')", "input()"),
        ("input(); input()", "import sys; sys.exit('it broke')"),
    ],
)
def test_an_end_that_fails_is_told_with_its_reason_and_at_once(sender: str, receiver: str) -> None:
    began = time.monotonic()
    with pytest.raises(OSError, match="it broke"):
        ends(sender, receiver)
    assert time.monotonic() - began < 10
