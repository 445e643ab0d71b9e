"""What the README and the pages it leads to promise: tables say what the code does, links lead somewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from transfer import errors, events

ROOT = Path(__file__).resolve().parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
EVENTS = (ROOT / "transfer" / "EVENTS.md").read_text(encoding="utf-8")
FIGURES = (ROOT / "scripts" / "benchmarks" / "README.md").read_text(encoding="utf-8")
PAGES = (
    "README.md",
    "scripts/benchmarks/README.md",
    "scripts/deploy/README.md",
    "tests/README.md",
    "transfer/EVENTS.md",
    "transfer/FORMAT.md",
    "transfer/README.md",
)


def table(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table after a line that contains `heading`, without its head."""
    found = page[page.index(heading) :].split("\n\n|", 1)[1].split("\n\n", 1)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found.splitlines()][2:]


def rows(page: str, heading: str) -> dict[str, str]:
    """The same by its first column, which says nothing twice."""
    cells = table(page, heading)
    found = {first.strip("`"): rest for first, rest, *_ in cells}
    assert len(found) == len(cells)
    return found


def test_the_event_table_names_every_event_and_field() -> None:
    table = rows(EVENTS, "## Events of a command")
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


@pytest.mark.parametrize("code", sorted({int(c) for c in rows(README, "## For scripts") if c.isdigit()}))
def test_each_exit_code_of_the_table_has_an_error_or_is_success(code: int) -> None:
    known = {0}
    pending: list[type[errors.XferError]] = [errors.XferError]
    while pending:
        kind = pending.pop()
        known.add(kind.code)
        pending += kind.__subclasses__()
    assert code in known


def test_the_table_of_exit_codes_is_that_of_the_code() -> None:
    assert rows(README, "## For scripts") == errors.EXIT_CODES
    assert [c for c in errors.EXIT_CODES if c.isdigit()] == [str(n) for n in range(13)]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_to_a_file_or_a_heading_leads_there(page: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert links or page.startswith("transfer/")
    for link in links:
        name, _, heading = link.partition("#")
        target = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        assert target.exists(), link
        if heading:
            titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, (
                link
            )


def test_its_pictures_say_in_words_what_they_show_and_are_small() -> None:
    pictures = re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", README)
    assert [path for _, path in pictures] == ["scripts/picture.png", "scripts/benchmarks/s3.png"]
    for words, path in pictures:
        assert len(words.split()) > 5
        picture = (ROOT / path).read_bytes()
        assert picture.startswith(b"\x89PNG\r\n")
        assert len(picture) < 200_000


def test_the_picture_of_figures_is_drawn_from_those_of_the_table() -> None:
    """Row by row: xfer, s5cmd, rclone, aws-cli, aws CRT, each up / down."""
    tools = ("xfer", "s5cmd", "rclone", "aws-classic", "aws-crt")
    drawn: dict[tuple[str, str], dict[str, list[float]]] = {}
    found = json.loads((ROOT / "scripts/benchmarks/s3.json").read_text(encoding="utf-8"))
    for cell in found["cells"]:
        row = drawn.setdefault((cell["link"], cell["file"]), {})
        row.setdefault(cell["tool"], []).extend(cell["seconds"])
    measured = [cells for cells in table(FIGURES, "## Through the store") if not cells[0].startswith("–")]
    told = []
    for _, *cells in measured:
        pairs = {tool: cell for tool, cell in zip(tools, cells, strict=False) if cell}
        told.append({tool: [float(seconds) for seconds in pair.split(" / ")] for tool, pair in pairs.items()})
    assert len(told) == 9
    assert sorted(map(repr, told)) == sorted(map(repr, drawn.values()))
