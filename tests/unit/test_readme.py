"""The README's tables are promises to scripts: they must say what the code does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from transfer import errors, events

README = (Path(__file__).resolve().parent.parent.parent / "README.md").read_text(encoding="utf-8")


def rows(heading: str) -> dict[str, str]:
    """The first table after a line that contains `heading`, by its first column."""
    table = README[README.index(heading) :].split("\n\n|", 1)[1].split("\n\n", 1)[0]
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in table.splitlines()]
    return {first.strip("`"): rest for first, rest, *_ in cells[2:]}


def test_the_event_table_names_every_event_and_field() -> None:
    table = rows("### Events")
    kinds = {kind.__struct_config__.tag: kind for kind in get_args(events.AnyEvent)}
    assert set(table) == set(kinds)
    for tag, kind in kinds.items():
        fields = {field.name for field in msgspec.structs.fields(kind)} - {"v"}
        named = set(re.findall(r"`([a-z_]+)`", re.sub(r"\([^)]*\)", "", table[str(tag)])))
        assert named == fields, tag


def test_every_event_says_its_name_and_version() -> None:
    for kind in get_args(events.AnyEvent):
        schema = msgspec.json.schema(kind)["$defs"][kind.__name__]
        assert schema["properties"]["event"]["enum"] == [kind.__struct_config__.tag]
        assert schema["properties"]["v"]["default"] == 1


@pytest.mark.parametrize("code", sorted({int(c) for c in rows("## For scripts") if c.isdigit()}))
def test_each_exit_code_of_the_table_has_an_error_or_is_success(code: int) -> None:
    known = {0}
    pending: list[type[errors.XferError]] = [errors.XferError]
    while pending:
        kind = pending.pop()
        known.add(kind.code)
        pending += kind.__subclasses__()
    assert code in known


def test_the_table_of_exit_codes_is_that_of_the_code() -> None:
    assert rows("## For scripts") == errors.EXIT_CODES
    assert [c for c in errors.EXIT_CODES if c.isdigit()] == [str(n) for n in range(13)]
