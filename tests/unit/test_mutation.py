"""scripts/mutate: which mistakes it makes, that each is one that Python takes, and what its list of survivors says."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from scripts.mutation.mutants import mutants_of
from scripts.mutation.survivors import BadList, read_survivors

ROOT = Path(__file__).resolve().parents[2]


def changes(source: str) -> set[tuple[str, str]]:
    return {(mutant.before, mutant.after) for mutant in mutants_of(source.encode())}


@pytest.mark.parametrize(
    ("source", "before", "after"),
    [
        ("a < b", "a < b", "a <= b"),
        ("0 < a <= b", "0 < a <= b", "0 < a < b"),
        ("a is None", "a is None", "a is not None"),
        ("a + b", "a + b", "a - b"),
        ("a and b", "a and b", "a or b"),
        ("a and b", "b", "not (b)"),
        ("not a", "not a", "a"),
        ("x = 7", "7", "8"),
        ("x = True", "True", "False"),
        ("x = b'a'", "b'a'", "b'a?'"),
        ("if a: b", "a", "not (a)"),
        ("f(a)", "f(a)", "pass"),
        ("self.x = a", "self.x = a", "pass"),
        ("x += a", "x += a", "x -= a"),
        ("x += a", "x += a", "pass"),
        ("def f(): return a", "return a", "return None"),
        ("raise E(1)", "raise E(1)", "pass"),
        ("for x in y: continue", "continue", "break"),
        ("match x:\n case 1: a", "1", "2"),
    ],
)
def test_a_mistake_of_each_kind_is_made(source: str, before: str, after: str) -> None:
    assert (before, after) in changes(source)


@pytest.mark.parametrize(
    "source",
    [
        '"""A docstring."""',
        "x: Annotated[int, 3]",
        "def f(x: Literal[3]) -> Literal[4]: ...",
        "@cache(3)\ndef f(): ...",
        "class A(B, frozen=True): ...",
        "x = 'a sentence for people'",
        "x = f'{a + 1}'",
        "assert a < b",
        "__all__ = ['a']",
        "x = Alpha | None",
        "isinstance(x, int | str) or y",
    ],
)
def test_what_no_test_could_notice_is_left_alone(source: str) -> None:
    meant = {after for _, after in changes(source)}
    assert meant <= {"pass", "isinstance(x, int | str) and y", "not (isinstance(x, int | str))", "not (y)"}


def test_nothing_inside_a_raise_is_changed() -> None:
    assert changes("raise E('short', 1 + 2)") == {("raise E('short', 1 + 2)", "pass")}


@pytest.mark.parametrize("name", ["seal", "session", "sctp/sending"])
def test_every_mutant_is_python_differs_and_has_a_name_of_its_own(name: str) -> None:
    source = (ROOT / "transfer" / f"{name}.py").read_bytes()
    mutants = mutants_of(source)
    texts = {mutant.applied(source) for mutant in mutants}
    for text in texts:
        ast.parse(text)
    assert len(texts) == len({mutant.name for mutant in mutants}) == len(mutants) > 50
    assert source not in texts


def test_a_mutant_keeps_its_name_when_lines_move_above_it() -> None:
    source = b"def f(a):\n    return a < 1\n"
    names = [mutant.name for mutant in mutants_of(source)]
    assert names == [mutant.name for mutant in mutants_of(b"# above\n\n" + source)]
    assert "f: a < 1 => a <= 1" in names


def test_those_that_read_alike_in_one_function_are_counted() -> None:
    names = [mutant.name for mutant in mutants_of(b"def f():\n    g(1)\n    g(1)\n")]
    assert "f: g(1) => pass" in names
    assert "f: g(1) => pass #2" in names


def test_columns_are_bytes_where_a_line_has_other_letters() -> None:
    source = "x = 'ü', 1".encode()
    (number,) = (mutant for mutant in mutants_of(source) if mutant.before == "1")
    assert number.applied(source).decode() == "x = 'ü', 2"


def test_the_list_gives_each_survivor_the_reason_above_it() -> None:
    text = "# about\nOnly speed.\n  a.py f: 1 => 2\n\n  a.py f: 2 => 3\nNo difference.\n  b.py g: x => y\n"
    assert read_survivors(text) == {
        "a.py f: 1 => 2": "Only speed.",
        "a.py f: 2 => 3": "Only speed.",
        "b.py g: x => y": "No difference.",
    }


@pytest.mark.parametrize("text", ["  a.py f: 1 => 2\n", "Why.\n  a.py f: 1 => 2\n  a.py f: 1 => 2\n"])
def test_a_survivor_without_a_reason_or_listed_twice_is_a_mistake(text: str) -> None:
    with pytest.raises(BadList):
        read_survivors(text)


def test_the_list_of_survivors_can_be_read() -> None:
    read_survivors((ROOT / "tests" / "survivors.txt").read_text())
