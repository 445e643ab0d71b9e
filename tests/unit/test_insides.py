"""What is private of a library stands in one module for each, and is there in the version that is installed."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]


class Library(NamedTuple):
    """adapter: the one module that may know its insides. whole: it alone may import the library at all.

    names: class (or module) to what of it is private, or nowhere described, and used.
    """

    project: str
    package: str
    adapter: str
    whole: bool
    names: dict[str, str]


LIBRARIES = [
    Library(
        "aioice",
        "aioice",
        "transfer/transports/inside_aioice.py",
        True,
        {
            "aioice.ice:Connection": "_check_list _early_checks_done _local_candidates _local_candidates_end"
            " _local_candidates_start _nominated _pair_remote_candidate _protocols _remote_candidates"
            " check_complete check_incoming sort_check_list",
            "aioice.ice:StunProtocol": "datagram_received local_candidate transport",
            "aioice.ice:CandidatePair": "State protocol remote_addr state",
            "aioice.ice": "server_reflexive_candidate",
            "aioice.candidate:Candidate": "_network_host",
            "aioice.candidate": "candidate_foundation candidate_priority",
            "aioice.stun": "Message TransactionError",
            "aioice.turn:TurnClientMixin": "_send channel_bind channel_refresh_at channel_to_peer connection_made"
            " datagram_received peer_to_channel receiver server transport",
            "aioice.turn:TurnTransport": "_connect sendto",
            "aioice.turn": "DEFAULT_ALLOCATION_LIFETIME",
        },
    ),
    Library(
        "pyOpenSSL",
        "OpenSSL",
        "transfer/transports/inside_openssl.py",
        False,
        {"OpenSSL.SSL": "_ffi _lib", "OpenSSL.SSL:Connection": "_into_ssl _ssl"},
    ),
    Library("aiortc", "aiortc", "transfer/transports/plain.py", True, {"aiortc.sdp": "candidate_from_sdp"}),
    Library(
        "nats-py",
        "nats",
        "transfer/sturdy.py",
        False,
        {
            "nats.aio.client:Client": "_connect_to_server _current_server _error_cb _parse_header_lines _pongs"
            " _process_info _process_msg _process_pong _server_info _transport options",
            "nats.aio.transport:TcpTransport": "_io_reader _io_writer connect connect_tls",
            "nats.micro.service:Service": "_endpoints",
            "nats.micro.service:Endpoint": "_subscription",
            "nats.micro.request:Request": "_msg",
        },
    ),
    Library(
        "botocore",
        "botocore",
        "transfer/broker/bucket.py",
        True,
        {"botocore.hooks:BaseEventHooks": "register", "botocore.client:ClientMeta": "events"},
    ),
    Library(
        "urllib3",
        "urllib3",
        "transfer/transports/s3/connections.py",
        False,
        {"urllib3.connectionpool:HTTPConnectionPool": "_get_conn _put_conn"},
    ),
    Library(
        "typer",
        "typer",
        "cli/inside_typer.py",
        False,
        {
            "typer._click.core": "Command Context Parameter",
            "typer._click.exceptions": "BadOptionUsage BadParameter ClickException MissingParameter"
            " NoArgsIsHelpError NoSuchOption UsageError",
            "typer._click.formatting": "HelpFormatter",
            "typer._click.types": "IntRange",
            "typer._types": "TyperChoice",
        },
    ),
]
WITHOUT = ("rich", "prometheus_client")
"""Libraries of which nothing private is used anywhere."""
OF_PYTHON = {"_abc_impl", "_is_protocol"}
"""What it puts into classes itself."""
OF_TUPLES = {"_replace", "_asdict", "_fields", "_make"}
"""Public for all their underscores."""
OF_MODULES = {("os", "_exit")}
"""Documented, likewise."""


@functools.cache
def modules() -> list[tuple[str, ast.Module]]:
    """Path below the root, and content."""
    paths = sorted(path for folder in ("cli", "transfer") for path in (ROOT / folder).rglob("*.py"))
    return [(str(path.relative_to(ROOT)), ast.parse(path.read_text())) for path in paths]


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def own_names(tree: ast.Module) -> set[str]:
    """What the module itself defines or sets, at whatever depth: attributes, functions, classes, names."""
    own: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            own.add(node.attr)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
    return own


@functools.cache
def ours() -> set[str]:
    """What any module but the adapters defines: a class may have it from another module's."""
    adapters = {library.adapter for library in LIBRARIES}
    return {name for path, tree in modules() if path not in adapters for name in own_names(tree)}


def reached_into(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of each private name that is not the module's own."""
    own = own_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and private(node.attr) and node.attr not in own:
            receiver = ast.unparse(node.value)
            inherited = receiver in ("self", "cls", "super()") and node.attr in ours()
            if not inherited and node.attr not in OF_TUPLES and (receiver, node.attr) not in OF_MODULES:
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr"):
            name = node.args[1]
            text = name.value if isinstance(name, ast.Constant) else None
            if isinstance(text, str) and private(text) and text not in own:
                yield node.lineno, f"{ast.unparse(node.args[0])}.{text}"
        elif isinstance(node, ast.ImportFrom | ast.Import):
            source = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                parts = [*source.split("."), *alias.name.split(".")]
                if any(private(part) for part in parts):
                    yield node.lineno, ast.unparse(node)


def overridden(path: str) -> Iterator[str]:
    """Private names of a library's class that a class of ours takes the place of."""
    module = importlib.import_module(path.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    for made in vars(module).values():
        if inspect.isclass(made) and made.__module__ == module.__name__:
            for base in made.__mro__[1:]:
                if base.__module__.partition(".")[0] in {
                    *WITHOUT,
                    *(library.package for library in LIBRARIES),
                }:
                    yield from (
                        f"{made.__name__}.{name}"
                        for name in vars(made)
                        if private(name) and name in vars(base) and name not in OF_PYTHON
                    )


@pytest.mark.parametrize(
    "text",
    [
        "client._transport",
        "self._client._server_info['version']",
        "getattr(client, '_pongs')",
        "import nats._private",
        "from OpenSSL._util import lib",
        "from OpenSSL.SSL import _lib",
        "class Our(Theirs):\n    def look(self):\n        return self._check_list",
    ],
)
def test_a_private_name_of_others_is_found(text: str) -> None:
    assert list(reached_into(ast.parse(text)))


@pytest.mark.parametrize(
    "text", ["self._at = 1\nto._at", "step._replace(a=1)", "os._exit(0)", "self.__dict__"]
)
def test_a_name_of_ones_own_is_none(text: str) -> None:
    assert not list(reached_into(ast.parse(text)))


def test_only_the_adapters_reach_into_what_is_not_public() -> None:
    adapters = {library.adapter for library in LIBRARIES}
    found = [
        f"{path}:{line}: {text}"
        for path, tree in modules()
        if path not in adapters
        for line, text in reached_into(tree)
    ]
    assert not found, "private names outside of their adapter (see LIBRARIES):\n" + "\n".join(found)


def test_only_the_adapters_take_the_place_of_what_is_not_public() -> None:
    adapters = {library.adapter for library in LIBRARIES}
    packages = "|".join([*WITHOUT, *(library.package for library in LIBRARIES)])
    derives = re.compile(rf"^\s*(from|import) ({packages}|transfer\.sturdy|\S*inside_\w+)\b", re.MULTILINE)
    found = [
        f"{path}: {name}"
        for path, _ in modules()
        if path not in adapters and derives.search((ROOT / path).read_text()) and path != "cli/__main__.py"
        for name in overridden(path)
    ]
    assert not found, "private methods of a library, overridden outside of its adapter:\n" + "\n".join(found)


@pytest.mark.parametrize("library", [one for one in LIBRARIES if one.whole], ids=lambda one: one.project)
def test_whoever_needs_what_is_nowhere_described_imports_it_from_the_adapter(library: Library) -> None:
    found = []
    for path, tree in modules():
        for node in ast.walk(tree):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if path != library.adapter and any(name.partition(".")[0] == library.package for name in names):
                found.append(f"{path}: {ast.unparse(node)}")
    assert not found, f"{library.project} is imported beside {library.adapter}: {found}"


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda one: one.project)
def test_what_is_used_of_a_librarys_insides_is_there(library: Library) -> None:
    """After an upgrade: see what took its place, mend the adapter, and say in CHECKED which version that was."""
    installed = version(library.project)
    gone = [
        f"{place}.{name}"
        for place, names in library.names.items()
        for name in names.split()
        if not has(place, name)
    ]
    checked = checked_version(library)
    assert not gone, (
        f"{library.project} {installed} has no {', '.join(gone)} any more;"
        f" {library.adapter} was written for {checked}x"
    )


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda one: one.project)
def test_the_insides_were_looked_at_in_the_version_that_is_installed(library: Library) -> None:
    installed, checked = version(library.project), checked_version(library)
    used = ", ".join(f"{place}: {names}" for place, names in library.names.items())
    assert installed.startswith(checked), (
        f"{library.project} {installed} is installed, and {library.adapter} was checked with {checked}x:"
        f" look at what it uses ({used}), then change CHECKED"
    )


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda one: one.project)
def test_whatever_private_name_an_adapter_uses_is_listed_here(library: Library) -> None:
    listed = {name for names in library.names.values() for name in names.split()}
    listed |= {part for place in library.names for part in re.split("[.:]", place)}
    tree = ast.parse((ROOT / library.adapter).read_text())
    used = {part for _, text in reached_into(tree) for part in re.findall(r"\b_\w+", text) if private(part)}
    assert used - own_names(tree) <= listed


def checked_version(library: Library) -> str:
    found = re.search(r'^CHECKED = "([\d.]+)"', (ROOT / library.adapter).read_text(), re.MULTILINE)
    assert found is not None, f"{library.adapter} says in CHECKED which versions it knows"
    return found[1]


def has(place: str, name: str) -> bool:
    """place: `module` or `module:Class`. An attribute counts that any of its methods sets."""
    module, _, owner = place.partition(":")
    try:
        there = importlib.import_module(module)
        if owner:
            there = getattr(there, owner)
    except (ImportError, AttributeError):
        return False
    if hasattr(there, name) or name in getattr(there, "__annotations__", {}):
        return True
    sources = [
        inspect.getsource(base) for base in getattr(there, "__mro__", ()) if base.__module__ != "builtins"
    ]
    return any(
        re.search(rf"\bself\.{name}\b[^=\n]*=[^=]|^    {name}:", source, re.MULTILINE) for source in sources
    )
