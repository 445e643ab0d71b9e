"""The tree of errors: what the docstring draws is what the classes are, and every leaf helps on."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from transfer import errors
from transfer.errors import Interrupted, XferError

DOCUMENTED_CODES = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
"""The public contract; 0 is success and 128+n belongs to Interrupted."""
ROW = re.compile(r"^(?P<branch>[│ ├└─]*)(?P<name>[A-Z]\w+) +(?P<code>128\+n|\d+)?")


def subclasses(cls: type[XferError]) -> Iterator[type[XferError]]:
    for child in cls.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from subclasses(child)


LEAVES = [cls for cls in subclasses(XferError) if not cls.__subclasses__()]


def drawn() -> list[tuple[str, str | None, str | None]]:
    """(name, parent's name, code as drawn or None) of each row of the docstring's tree."""
    rows: list[tuple[str, str | None, str | None]] = []
    stack: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = ROW.match(line)
        if match is None or (match["branch"] == "" and match["name"] != "XferError"):
            continue
        depth = len(match["branch"])
        while stack and stack[-1][0] >= depth:
            stack.pop()
        rows.append((match["name"], stack[-1][1] if stack else None, match["code"]))
        stack.append((depth, match["name"]))
    return rows


def make(cls: type[XferError]) -> XferError:
    return Interrupted(2) if issubclass(cls, Interrupted) else cls("something happened")


def test_the_drawn_tree_is_the_tree_of_classes() -> None:
    classes = {cls.__name__: cls.__bases__[0].__name__ for cls in subclasses(XferError)}
    assert {name: parent for name, parent, _ in drawn() if parent} == classes


def test_the_classes_stand_in_the_order_of_the_drawing() -> None:
    names = [name for name in vars(errors) if name in {row[0] for row in drawn()}]
    assert names == [row[0] for row in drawn()]


@pytest.mark.parametrize(("name", "parent", "code"), drawn(), ids=str)
def test_a_drawn_code_is_the_code_that_is_raised(name: str, parent: str | None, code: str | None) -> None:
    cls = getattr(errors, name)
    if code is None and cls.__subclasses__():
        return
    if code is None:  # inherited, as drawn above it
        code = next(c for n, _, c in drawn() if n == parent)
    expected = 130 if code == "128+n" else int(code or 0)
    assert make(cls).exit_code == expected


@pytest.mark.parametrize("cls", LEAVES, ids=lambda cls: cls.__name__)
def test_a_leaf_has_a_sentence_a_next_step_and_a_documented_code(cls: type[XferError]) -> None:
    error = make(cls)
    sentence = (cls.__doc__ or "").strip()
    assert re.match(r"[A-Z]", sentence)
    assert sentence.endswith(".")
    assert error.next_step.strip()
    assert not error.next_step.endswith(".")
    assert "\n" not in error.what + error.next_step
    assert error.exit_code in DOCUMENTED_CODES or error.exit_code == 130


def test_a_hint_of_the_moment_goes_before_that_of_the_class() -> None:
    assert errors.JobGone("gone", hint="look elsewhere").next_step == "look elsewhere"
    assert errors.JobGone("gone").next_step == errors.JobGone.hint


def test_every_code_of_the_contract_has_an_error() -> None:
    assert {make(cls).exit_code for cls in LEAVES} - {130} == DOCUMENTED_CODES


@pytest.mark.parametrize(("signum", "code"), [(2, 130), (15, 143)])
def test_a_signal_exits_with_128_and_its_number(signum: int, code: int) -> None:
    assert Interrupted(signum).exit_code == code
