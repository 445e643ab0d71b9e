"""The one door for names that a peer supplies: a manifest path or link target passes here, or is refused.

Pure: no I/O, and the platform is an argument (`Flavour`), so the rules of every platform are tested on
each. Linear in the bytes of the manifest, however it is made.

Refused (UnsafeName): absolute paths, drive letters, UNC, `..`, `.`, empty parts, NUL, what is too long or
too deep, duplicates, names that the folder cannot tell apart, a file or link with something under it, our
own staging prefix, links that leave the folder. Written escaped, as %XX of the UTF-8 bytes, and said in a
notice: control, bidi and invisible characters, and what the platform cannot store. A literal `%1B` stays
as it is; where it would meet an escaped name, both mean the same file and the transfer is refused.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from transfer.errors import UnsafeName
from transfer.model import Entry, EntryKind

STAGING_PREFIX = ".xfer-"
MAX_PART = 255
"""Bytes of UTF-8, on Windows UTF-16 units. Source: NAME_MAX of Linux and macOS, component limit of NTFS."""
MAX_DEPTH = 128
"""Parts of a path. Removing a tree holds a descriptor for every level, and macOS grants 256."""
MAX_NOTICES = 20

_ESCAPED_CATEGORIES = frozenset({"Cc", "Cf", "Zl", "Zp"})
_WINDOWS_RESERVED = frozenset('<>:"\\|?*')
_WINDOWS_DEVICE = re.compile(
    r"(?:CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|CLOCK\$|(?:COM|LPT)[0-9¹²³]) *(?:\.|$)", re.IGNORECASE
)
"""Source: Microsoft, «Naming Files, Paths, and Namespaces»; a device is one with any extension, too."""
_DRIVE = re.compile(rb"[A-Za-z]:")


class Flavour(NamedTuple):
    """What the folder written to can store and tell apart.

    windows: reserved characters and device names apply. utf8: names must be UTF-8.
    folds_case, folds_unicode: names that differ only in case, or only in normalisation, are one file.
    """

    windows: bool = False
    utf8: bool = False
    folds_case: bool = False
    folds_unicode: bool = False


POSIX = Flavour()
MACOS = Flavour(utf8=True, folds_case=True, folds_unicode=True)
WINDOWS = Flavour(windows=True, utf8=True, folds_case=True)


class Place(NamedTuple):
    """Where an entry goes: parts below the destination. target: what a link says, else empty."""

    parts: tuple[str, ...]
    target: str


class Admitted(NamedTuple):
    """places: one for each entry, in order. notices: lines for people, about names written escaped."""

    places: list[Place]
    notices: list[str]


def printable(name: bytes | str, limit: int = 240) -> str:
    """Any name, safe for a terminal or a log: what is not plainly visible shows as a backslash escape."""
    text = name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name
    if len(text) > limit:
        text = text[:limit] + "…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(char: str) -> str:
    """A byte that is no UTF-8 stands in a str as a lone surrogate (PEP 383): it is shown as the byte that it is."""
    if "\udc80" <= char <= "\udcff":
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")


def admit(entries: Sequence[Entry], flavour: Flavour, *, unsafe_links: bool = False) -> Admitted:
    """All entries of a manifest through the door, or none.

    Args:
        unsafe_links: keep the targets of links as they are, wherever they lead.
    Raises:
        UnsafeName: names the first entry that must not be written.
    """
    door = _Door(flavour)
    found = [door.entry(entry) for entry in entries]
    places = [
        Place(parts, door.target(entry, node, unsafe_links) if entry.kind is EntryKind.LINK else "")
        for entry, (node, parts) in zip(entries, found, strict=True)
    ]
    return Admitted(places, door.notices())


class _Door:
    """The names seen so far, as a tree of numbered nodes; node 0 is the destination.

    A node's key is its parent and its folded name, so two spellings of one file meet in one node.
    """

    def __init__(self, flavour: Flavour) -> None:
        self._flavour = flavour
        self._ids: dict[tuple[int, str], int] = {}
        self._parents = [0]
        self._raws = [b""]
        self._kinds: list[EntryKind | None] = [EntryKind.DIRECTORY]  # None: implied by what lies under it
        self._folders: dict[bytes, tuple[int, tuple[str, ...]]] = {b"": (0, ())}
        self._written: dict[bytes, tuple[str, str]] = {}
        self._escaped: list[tuple[bytes, bytes]] = []

    def entry(self, entry: Entry) -> tuple[int, tuple[str, ...]]:
        """Its node and the parts to write it at."""
        path = entry.path
        self._check_whole(path)
        parent, _, raw = path.rpartition(b"/")
        above, parts = self._folder(parent, path)
        name, folded = self._part(raw, path)
        known = self._ids.get((above, folded))
        if known is None:
            node = self._add(above, folded, raw, entry.kind)
        else:
            node = known
            self._same_spelling(node, raw, path)
            if self._kinds[node] is not None:
                raise _unsafe(path, "stands in the manifest twice")
            if entry.kind is not EntryKind.DIRECTORY:
                raise _unsafe(path, "is said to be no folder, yet has something under it")
            self._kinds[node] = entry.kind
        return node, (*parts, name)

    def target(self, entry: Entry, node: int, unsafe: bool) -> str:
        """What a link may say here, its parts escaped as the entries are, so that it still finds them."""
        target, path = entry.target, entry.path
        if not target or b"\0" in target:
            raise _unsafe(path, "is a link with an impossible target")
        if unsafe:
            return os.fsdecode(target)
        if self._is_absolute(target):
            raise _unsafe(path, f"is a link to the absolute path {printable(target)}", _LINK_HINT)
        trail = self._trail(self._parents[node])
        through_link = False
        written = []
        for raw in target.split(b"/"):
            if raw in (b"", b"."):
                written.append(raw.decode())
                continue
            here = trail[-1]
            through_link = through_link or (here is not None and self._kinds[here] is EntryKind.LINK)
            if raw == b"..":
                # Behind another link, `..` is not the folder that the path shows.
                if len(trail) == 1 or through_link:
                    raise _unsafe(path, f"is a link that leaves the folder: {printable(target)}", _LINK_HINT)
                trail.pop()
                written.append("..")
                continue
            name, folded = self._part(raw, path)
            trail.append(self._ids.get((here, folded)) if here is not None else None)
            written.append(name)
        return "/".join(written)

    def _trail(self, node: int) -> list[int | None]:
        """The nodes from the destination down to this one."""
        trail: list[int | None] = [node]
        while node:
            node = self._parents[node]
            trail.append(node)
        return trail[::-1]

    def notices(self) -> list[str]:
        lines = [self._notice(path, raw) for path, raw in self._escaped[: MAX_NOTICES + 1]]
        if len(lines) > MAX_NOTICES:
            more = len(self._escaped) - MAX_NOTICES
            lines[MAX_NOTICES:] = [f"{more} more names are written with escapes"]
        return lines

    def _notice(self, path: bytes, raw: bytes) -> str:
        """raw: the part that had to change; of the path, or else of where that link leads."""
        parts = path.split(b"/")
        if raw in parts:
            written = b"/".join(_utf8(self._written[part][0]) for part in parts)
            return f"{printable(path)} is written as {printable(written)}, because its name {_why(raw)}"
        written = _utf8(self._written[raw][0])
        return f"{printable(path)} leads to {printable(written)}, because the name it leads to {_why(raw)}"

    def _folder(self, folder: bytes, path: bytes) -> tuple[int, tuple[str, ...]]:
        known = self._folders.get(folder)
        if known is not None:
            return known
        node = 0
        parts: list[str] = []
        for raw in folder.split(b"/"):
            name, folded = self._part(raw, path)
            below = self._ids.get((node, folded))
            if below is None:
                below = self._add(node, folded, raw, None)
            else:
                self._same_spelling(below, raw, path)
                if self._kinds[below] is EntryKind.FILE:
                    raise _unsafe(path, "lies under something that is a file")
                if self._kinds[below] is EntryKind.LINK:
                    raise _unsafe(path, "lies under something that is a link")
            node = below
            parts.append(name)
        self._folders[folder] = (node, tuple(parts))
        return self._folders[folder]

    def _add(self, above: int, folded: str, raw: bytes, kind: EntryKind | None) -> int:
        node = len(self._kinds)
        self._ids[above, folded] = node
        self._parents.append(above)
        self._raws.append(raw)
        self._kinds.append(kind)
        return node

    def _same_spelling(self, node: int, raw: bytes, path: bytes) -> None:
        """Raw parts are compared: an escaped name and its literal twin are written alike, yet are two."""
        if self._raws[node] != raw:
            raise _unsafe(path, f"cannot be told from {printable(self._raws[node])} in this folder")

    def _check_whole(self, path: bytes) -> None:
        if self._is_absolute(path):
            raise _unsafe(path, "is absolute")
        if path.count(b"/") >= MAX_DEPTH:
            raise _unsafe(path, "is nested too deeply")
        if path[: len(STAGING_PREFIX)].lower() == STAGING_PREFIX.encode():
            raise _unsafe(path, "looks like a temporary folder of xfer")

    def _is_absolute(self, path: bytes) -> bool:
        if path.startswith(b"/"):
            return True
        return self._flavour.windows and (path.startswith(b"\\") or _DRIVE.match(path) is not None)

    def _part(self, raw: bytes, path: bytes) -> tuple[str, str]:
        """One part as it is written, and as the folder compares it. Cached: folders come again and again."""
        known = self._written.get(raw)
        if known is not None:
            return known
        if raw in (b"", b".", b".."):
            raise _unsafe(path, "has an empty part" if not raw else f"has a part that is {raw.decode()}")
        if b"\0" in raw:
            raise _unsafe(path, "has a NUL in it")
        if self._flavour.windows and b".." in raw.split(b"\\"):
            raise _unsafe(path, "has a part that is ..")
        text = raw.decode("utf-8", "surrogateescape")
        name = self._escape(text)
        width = (
            len(name.encode("utf-16-le", "surrogatepass")) // 2 if self._flavour.windows else len(_utf8(name))
        )
        if width > MAX_PART:
            raise _unsafe(path, "has a part that is too long")
        if name != text:
            self._escaped.append((path, raw))
        if not self._flavour.utf8:
            name = os.fsdecode(_utf8(name))
        self._written[raw] = (name, self._fold(name))
        return self._written[raw]

    def _escape(self, text: str) -> str:
        windows = self._flavour.windows
        if not text.isprintable() or (windows and not _WINDOWS_RESERVED.isdisjoint(text)):
            text = "".join(_percent(c) if self._is_odd(c) else c for c in text)
        if windows and text[-1] in ". ":
            text = text[:-1] + _percent(text[-1])
        if windows and _WINDOWS_DEVICE.match(text):
            text = _percent(text[0]) + text[1:]
        return text

    def _is_odd(self, char: str) -> bool:
        category = unicodedata.category(char)
        if category in _ESCAPED_CATEGORIES or (self._flavour.windows and char in _WINDOWS_RESERVED):
            return True
        return category == "Cs" and self._flavour.utf8

    def _fold(self, name: str) -> str:
        """Folds rather too much than too little (`ß` meets `ss`): a refusal is said, a lost file is not."""
        if self._flavour.folds_unicode:
            name = unicodedata.normalize("NFD", name)
        if self._flavour.folds_case:
            name = name.casefold()
        return unicodedata.normalize("NFD", name) if self._flavour.folds_unicode else name


_LINK_HINT = "fetch with --unsafe-links if you trust the sender, or have it sent without links (--links skip)"


def _unsafe(path: bytes, why: str, hint: str | None = None) -> UnsafeName:
    return UnsafeName(f"{printable(path)} {why}", hint=hint)


def _why(raw: bytes) -> str:
    """What is the matter with a name that is written escaped."""
    categories = set(map(unicodedata.category, raw.decode("utf-8", "surrogateescape")))
    if "Cc" in categories:
        return "holds control characters"
    if not _ESCAPED_CATEGORIES.isdisjoint(categories):
        return "holds invisible characters"
    return "cannot be stored here as it is"


def _percent(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in _utf8(char))


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
