"""What FORMAT.md says, and what the code says of the same: the verbs of the API, as they are written down there."""

from __future__ import annotations

import base64
import enum
import importlib
import inspect
import json
import pkgutil
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

import transfer.broker
from transfer.room import Item, Member
from transfer.room_names import Room
from transfer.rooms_api import RoomItem
from transfer.seal import Sealer
from transfer.ticket import RoomTicket, Ticket

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "transfer" / "FORMAT.md").read_text(encoding="utf-8")
VECTORS: dict[str, Any] = json.loads((ROOT / "tests" / "vectors" / "format.json").read_text(encoding="utf-8"))

TICKET = Ticket.parse(VECTORS["ticket"]["text"])
ROOM = RoomTicket.parse(VECTORS["room_ticket"])
PLAIN = {str: "str", int: "int", float: "float", bool: "bool", type(None): "null", msgspec.Raw: "any"}


class VerbTypes(typing.NamedTuple):
    """A request's type, and that of its answer."""

    request: type[msgspec.Struct]
    answer: type[msgspec.Struct]


def table(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    below = DOCUMENT[DOCUMENT.index(f"\n{heading}\n") :]
    rows = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
    assert rows, heading
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[0].splitlines()[2:]]


def block(heading: str) -> list[str]:
    """The lines of the first code block below a heading."""
    below = DOCUMENT[DOCUMENT.index(f"\n{heading}\n") :]
    return below.split("```text\n", 1)[1].split("```", 1)[0].splitlines()


def verbs() -> dict[str, VerbTypes]:
    """Of all that brokers answer, from the handlers' own annotations."""
    found: dict[str, VerbTypes] = {}
    for module in pkgutil.iter_modules(transfer.broker.__path__):
        if module.name == "__main__":
            continue
        names = vars(importlib.import_module(f"transfer.broker.{module.name}"))
        for kind in names.values():
            if inspect.isclass(kind) and kind.__module__ == names["__name__"] and hasattr(kind, "table"):
                found.update(_verbs_of(kind))
    return found


def _verbs_of(kind: type) -> Iterator[tuple[str, VerbTypes]]:
    source = inspect.getsource(kind.table)  # type: ignore[attr-defined]
    for name, handler in re.findall(r'"(\w+)": verb\([\w.]+, self\.(\w+)\)', source):
        method = getattr(kind, handler)
        hints = typing.get_type_hints(method)
        asked, said = hints[list(inspect.signature(method).parameters)[2]], hints["return"]
        [answer] = [one for one in _members(said) if issubclass(one, msgspec.Struct)]
        yield name, VerbTypes(asked, answer)


def api_lines() -> list[str]:
    """The API as FORMAT.md has it: a line for each request and its answer, then one for each struct in them."""
    known = verbs()
    lines = []
    nested: dict[str, type[msgspec.Struct]] = {}
    for name, (request, answer) in known.items():
        lines += [f"{name}: {fields(request, nested)}".rstrip(), f"    -> {fields(answer, nested)}".rstrip()]
    lines.append("")
    described: set[str] = set()
    while left := sorted(nested.keys() - described):
        described.add(left[0])
        lines.append(f"{left[0]}: {fields(nested[left[0]], nested)}")
    return lines


def fields(kind: type[msgspec.Struct], nested: dict[str, type[msgspec.Struct]]) -> str:
    """Without `v`, which every request has. nested: gets the structs that are named."""
    hints = typing.get_type_hints(kind)
    shown = []
    for field in msgspec.structs.fields(kind):
        if field.name == "v":
            continue
        default = ""
        if field.default is not msgspec.NODEFAULT:
            default = f" = {json.dumps(field.default)}"
        elif field.default_factory is not msgspec.NODEFAULT:
            default = f" = {json.dumps(field.default_factory())}"
        shown.append(f"{field.name}: {shape(hints[field.name], nested)}{default}")
    return ", ".join(shown)


def shape(kind: Any, nested: dict[str, type[msgspec.Struct]]) -> str:
    if len(members := _members(kind)) > 1:
        return " | ".join(shape(one, nested) for one in members)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is list:
        return f"[{shape(args[0], nested)}]"
    if origin in (dict, Mapping):
        return f"{{{shape(args[0], nested)}: {shape(args[1], nested)}}}"
    if inspect.isclass(kind) and issubclass(kind, enum.Enum):
        return kind.__name__
    if inspect.isclass(kind) and issubclass(kind, msgspec.Struct):
        nested[kind.__name__] = kind
        return str(kind.__name__)
    return PLAIN[kind]


def _members(kind: Any) -> list[Any]:
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return list(typing.get_args(kind)) if union else [kind]


def opened_item(sealed: bytes) -> Item:
    """As a member reads it from the broker's answer."""
    line = RoomItem(
        number=1,
        job=TICKET.job,
        sealed=base64.b64encode(sealed).decode(),
        user="ann",
        posted=0.0,
        expires=1.0,
    )
    member = Member.__new__(Member)
    member._sealer, member.room = Sealer(ROOM), Room(name="", ticket=ROOM, context="")
    posted = member._posted(line)
    if posted.wrong is not None:
        raise posted.wrong
    assert posted.item is not None
    return posted.item
