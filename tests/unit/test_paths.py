"""The door: hostile names and targets for every flavour, and a property: what comes out stays inside."""

from __future__ import annotations

import ntpath
import os
import posixpath
import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer.errors import UnsafeName
from transfer.model import Entry, EntryKind
from transfer.paths import MACOS, MAX_DEPTH, POSIX, WINDOWS, Admitted, Flavour, admit, printable

FILE, DIRECTORY, LINK = EntryKind.FILE, EntryKind.DIRECTORY, EntryKind.LINK
FLAVOURS = pytest.mark.parametrize("flavour", [POSIX, MACOS, WINDOWS], ids=["posix", "macos", "windows"])


def file(path: bytes | str) -> Entry:
    return Entry(os.fsencode(path) if isinstance(path, str) else path, FILE, 0, 0o644, 0)


def folder(path: str) -> Entry:
    return Entry(path.encode(), DIRECTORY, 0, 0o755, 0)


def link(path: str, target: str | bytes) -> Entry:
    return Entry(path.encode(), LINK, 0, 0o777, 0, target.encode() if isinstance(target, str) else target)


def written(path: bytes | str, flavour: Flavour) -> str:
    return "/".join(admit([file(path)], flavour).places[0].parts)


def through(*entries: Entry, flavour: Flavour = POSIX, unsafe_links: bool = False) -> Admitted:
    return admit(entries, flavour, unsafe_links=unsafe_links)


HOSTILE = [
    b"/etc/passwd",
    b"//host/share",
    b"..",
    b"../x",
    b"a/../b",
    b"a/..",
    b".",
    b"./a",
    b"a/./b",
    b"a//b",
    b"a/",
    b"a\0b",
    b"a/b\0",
    b"x" * 256,
    b"/".join([b"d"] * (MAX_DEPTH + 1)),
    b".xfer-abc/tree",
    b".XFER-abc",
]


@FLAVOURS
@pytest.mark.parametrize("path", HOSTILE, ids=lambda path: printable(path, 24))
def test_a_path_that_could_lead_outside_or_cannot_be_is_refused(path: bytes, flavour: Flavour) -> None:
    with pytest.raises(UnsafeName) as refusal:
        admit([file(path)], flavour)
    assert refusal.value.exit_code == 6
    assert refusal.value.what.isprintable()


@pytest.mark.parametrize(
    "path",
    ["C:", "c:/x", "C:x", "\\x", "\\\\host\\share", "\\\\?\\C:\\x", "a\\..\\..\\b", "..\\x", "a/..\\b"],
)
def test_drive_letters_unc_and_backslash_paths_are_refused_on_windows(path: str) -> None:
    with pytest.raises(UnsafeName):
        admit([file(path)], WINDOWS)


@pytest.mark.parametrize("path", ["C:", "c:/x", "\\x", "..\\x", "con", "aux.txt", "a.", "a ", 'a"<>|?*'])
def test_what_is_odd_only_on_windows_is_plain_elsewhere(path: str) -> None:
    assert written(path, POSIX) == path


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a\x1b[31m", "a%1B[31m"),
        ("a\nb", "a%0Ab"),
        ("a\x7f", "a%7F"),
        ("a\x9b", "a%C2%9B"),
        ("invoice\u202efdp.exe", "invoice%E2%80%AEfdp.exe"),
        ("\u2066a", "%E2%81%A6a"),
        ("a\u200bb", "a%E2%80%8Bb"),
        ("\ufeffa", "%EF%BB%BFa"),
        ("a\u2028b", "a%E2%80%A8b"),
        ("a\u2029b", "a%E2%80%A9b"),
        ("dir\x01/f", "dir%01/f"),
        ("grüße 日本 🎉 .bashrc", "grüße 日本 🎉 .bashrc"),
        ("100%1B", "100%1B"),
    ],
)
@FLAVOURS
def test_control_bidi_and_invisible_characters_are_written_escaped(
    path: str, name: str, flavour: Flavour
) -> None:
    assert written(path, flavour) == name
    assert bool(admit([file(path)], flavour).notices) == (path != name)


@pytest.mark.parametrize(
    ("entries", "flavour", "said"),
    [
        (
            [file("results/n\nl")],
            POSIX,
            r"results/n\nl is written as results/n%0Al, because its name holds control characters",
        ),
        (
            [file("a\u202eb")],
            POSIX,
            r"a\u202eb is written as a%E2%80%AEb, because its name holds invisible characters",
        ),
        (
            [file("d/a:b")],
            WINDOWS,
            "d/a:b is written as d/a%3Ab, because its name cannot be stored here as it is",
        ),
        (
            [file("x\x01/f\x02")],
            POSIX,
            r"x\x01/f\x02 is written as x%01/f%02, because its name holds control characters",
        ),
        (
            [link("l", "gone\x01")],
            POSIX,
            "l leads to gone%01, because the name it leads to holds control characters",
        ),
        (
            [link("L", "Gone\x01")],
            MACOS,
            "L leads to Gone%01, because the name it leads to holds control characters",
        ),
    ],
)
def test_the_notice_of_an_escaped_name_says_where_it_is_and_why(
    entries: list[Entry], flavour: Flavour, said: str
) -> None:
    assert set(admit(entries, flavour).notices) == {said}


def test_of_many_escaped_names_the_first_are_told_and_the_others_counted() -> None:
    notices = admit([file(f"{n}\x01") for n in range(30)], POSIX).notices
    assert len(notices) == 21
    assert notices[-1] == "10 more names are written with escapes"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a<b", "a%3Cb"),
        ("a:stream", None),
        ("file:stream", "file%3Astream"),
        ("a\\b", "a%5Cb"),
        ("a.", "a%2E"),
        ("abc.", "abc%2E"),
        ("a. .", "a. %2E"),
        ("...", "..%2E"),
        ("a ", "a%20"),
        ("CON", "%43ON"),
        ("con", "%63on"),
        ("AUX.txt", "%41UX.txt"),
        ("nul.tar.gz", "%6Eul.tar.gz"),
        ("COM1", "%43OM1"),
        ("COM¹", "%43OM¹"),
        ("lpt9 .x", "%6Cpt9 .x"),
        ("CONIN$", "%43ONIN$"),
        ("conf", "conf"),
        ("COM10", "COM10"),
        ("dir/PRN/x", "dir/%50RN/x"),
    ],
)
def test_names_windows_cannot_hold_are_written_escaped(path: str, name: str | None) -> None:
    if name is None:
        with pytest.raises(UnsafeName):
            admit([file(path)], WINDOWS)
    else:
        assert written(path, WINDOWS) == name


def test_a_name_that_is_not_utf8_stays_raw_on_posix_and_is_escaped_elsewhere() -> None:
    assert os.fsencode(written(b"caf\xe9\x9b", POSIX)) == b"caf\xe9\x9b"
    assert written(b"caf\xe9", MACOS) == "caf%E9"
    assert written(b"caf\xe9", WINDOWS) == "caf%E9"


@FLAVOURS
def test_an_escaped_name_that_meets_its_literal_twin_is_refused(flavour: Flavour) -> None:
    with pytest.raises(UnsafeName):
        through(file("a\x1b"), file("a%1B"), flavour=flavour)
    with pytest.raises(UnsafeName):
        through(file("a\x1b/x"), file("a%1B/y"), flavour=flavour)


@FLAVOURS
@pytest.mark.parametrize(
    "entries",
    [
        [file("a"), file("a")],
        [file("a"), folder("a")],
        [folder("a"), folder("a")],
        [file("a"), file("a/b")],
        [file("a/b"), file("a")],
        [file("a/b/c"), file("a/b")],
        [link("a", "b"), file("a/x")],
        [file("a/x"), link("a", "b")],
        [link("a", "b"), file("a/x/y")],
        [link("a", "b"), folder("a/x")],
    ],
    ids=lambda entries: " ".join(f"{e.kind.name[0]}:{e.path.decode()}" for e in entries),
)
def test_two_things_in_one_place_and_anything_under_a_file_or_link_are_refused(
    entries: list[Entry], flavour: Flavour
) -> None:
    with pytest.raises(UnsafeName):
        admit(entries, flavour)


@FLAVOURS
def test_a_folder_may_come_before_or_after_what_it_holds(flavour: Flavour) -> None:
    assert len(through(folder("a"), file("a/b"), flavour=flavour).places) == 2
    assert len(through(file("a/b"), folder("a"), flavour=flavour).places) == 2


def test_names_that_differ_in_case_are_two_files_where_the_folder_says_so() -> None:
    assert len(through(file("Makefile"), file("makefile")).places) == 2
    for flavour in (MACOS, WINDOWS):
        with pytest.raises(UnsafeName):
            through(file("Makefile"), file("makefile"), flavour=flavour)
        with pytest.raises(UnsafeName):
            through(file("Src/a"), file("src/b"), flavour=flavour)
        with pytest.raises(UnsafeName):
            through(link("L", "x"), file("l/y"), flavour=flavour)


def test_names_that_differ_in_normalisation_are_two_files_where_the_folder_says_so() -> None:
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    assert len(through(file(composed), file(decomposed)).places) == 2
    assert len(through(file(composed), file(decomposed), flavour=WINDOWS).places) == 2
    with pytest.raises(UnsafeName):
        through(file(composed), file(decomposed), flavour=MACOS)
    with pytest.raises(UnsafeName):
        through(file(composed.upper()), file(decomposed), flavour=MACOS)
    with pytest.raises(UnsafeName):  # marks in another order, one of which folds to a letter
        through(file("\u03b1\u0345\u0301"), file("\u03b1\u0301\u0345"), flavour=MACOS)


@FLAVOURS
@pytest.mark.parametrize(
    "target", ["/etc/passwd", "/", "..", "../..", "../../x", "a/../../..", "./../../x", "", "x\0", "x" * 256]
)
def test_a_link_that_is_absolute_leaves_the_folder_or_cannot_be_is_refused(
    target: str, flavour: Flavour
) -> None:
    path = "top" if target == ".." else "d/l"
    with pytest.raises(UnsafeName):
        through(link(path, target), flavour=flavour)


@pytest.mark.parametrize("target", ["C:\\x", "c:x", "\\x", "..\\..\\x", "\\\\h\\s"])
def test_a_windows_link_with_a_drive_or_backslash_path_is_refused(target: str) -> None:
    with pytest.raises(UnsafeName):
        through(link("d/l", target), flavour=WINDOWS)


@FLAVOURS
@pytest.mark.parametrize("target", ["x", "../x", "..", ".", "./x", "a/b/", "../d/x", "a/../b", "dangling/x"])
def test_a_link_that_stays_inside_is_kept_as_it_is(target: str, flavour: Flavour) -> None:
    entries = [folder("d"), file("d/x"), link("d/l", target)]
    assert admit(entries, flavour).places[-1].target == target


def test_a_link_may_not_climb_out_through_another_link() -> None:
    # d/e/a is the folder x, so d/e/a/../.. lies above the destination, though its text does not.
    with pytest.raises(UnsafeName):
        through(folder("x"), folder("d/e"), link("d/e/a", "../../x"), link("d/e/l", "a/../../y"))
    with pytest.raises(UnsafeName):
        through(link("d/l", "A/../../y"), link("d/a", "../x"), flavour=MACOS)


def test_a_links_target_is_escaped_as_the_entry_it_names() -> None:
    places = through(file("a\x1b/f"), link("l", "a\x1b/f")).places
    assert places[1].target == "/".join(places[0].parts)


def test_unsafe_links_are_kept_byte_for_byte_when_asked_for() -> None:
    for target in (b"/etc/passwd", b"../../x", b"a\x1b", b"\xff"):
        found = through(link("l", target), unsafe_links=True).places[0].target
        assert os.fsencode(found) == target


def test_many_escaped_names_give_a_bounded_number_of_notices() -> None:
    notices = admit([file(f"a\x01{n}") for n in range(1000)], POSIX).notices
    assert len(notices) < 30
    assert all(line.isprintable() for line in notices)


def test_a_hundred_thousand_entries_pass_in_a_few_seconds_of_cpu() -> None:
    entries = [file(f"project/package{n % 300}/module/file{n}.py") for n in range(100_000)]
    began = time.process_time()
    assert len(admit(entries, WINDOWS).places) == 100_000
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain näme", "plain näme"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        (b"a\xff", "a\\xff"),
        ("a\u202eb", "a\\u202eb"),
        (os.fsdecode(b"\x9b"), "\\x9b"),
        ("a\nb", "a\\nb"),
    ],
)
def test_printable_shows_any_name_without_control_of_the_terminal(name: str | bytes, shown: str) -> None:
    assert printable(name) == shown


def test_printable_shortens_what_nobody_would_read() -> None:
    assert len(printable("x" * 5000)) < 250


NASTY = st.sampled_from(
    [
        *(b"..", b".", b"", b"a", b"A", b"b", b"con", b"C:", b"\\", b"a\\..", b"%2E", b"\xff", b"\0", b"a."),
        *(b"a\x01", "é".encode(), "e\u0301".encode(), "\u202e".encode(), b".xfer-", b"x" * 300),
    ]
)
PARTS = st.one_of(NASTY, st.binary(max_size=6).map(lambda raw: raw.replace(b"/", b"")))
PATHS = st.lists(PARTS, min_size=1, max_size=5).map(b"/".join).filter(bool)
ENTRIES = st.lists(
    st.builds(
        lambda path, kind, target: Entry(path, kind, 0, 0o644, 0, target if kind is LINK else b""),
        PATHS,
        st.sampled_from(list(EntryKind)),
        PATHS,
    ),
    min_size=1,
    max_size=6,
)
ANY_FLAVOUR = st.builds(Flavour, st.booleans(), st.booleans(), st.booleans(), st.booleans())


@settings(max_examples=600, deadline=None)
@given(entries=ENTRIES, flavour=ANY_FLAVOUR)
def test_whatever_comes_through_the_door_stays_inside(entries: list[Entry], flavour: Flavour) -> None:
    try:
        places = admit(entries, flavour).places
    except UnsafeName:
        return
    pure = ntpath if flavour.windows else posixpath
    root = "C:\\top" if flavour.windows else "/top"
    seen = set()
    for entry, place in zip(entries, places, strict=True):
        where = pure.normpath(pure.join(root, *place.parts))
        assert where == pure.join(root, *place.parts)
        assert where.startswith(root + pure.sep)
        assert not any(unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") for c in where)
        assert where not in seen
        seen.add(where)
        if entry.kind is LINK:
            leads = pure.normpath(pure.join(pure.dirname(where), place.target))
            assert leads == root or leads.startswith(root + pure.sep)


@settings(max_examples=300, deadline=None)
@given(path=PATHS)
def test_a_plain_name_is_written_as_it_is_on_posix(path: bytes) -> None:
    text = path.decode("utf-8", "replace")
    parts = path.split(b"/")
    plain = text.isprintable() and "\ufffd" not in text and all(0 < len(p) < 256 for p in parts)
    if plain and not {b".", b".."} & set(parts) and not path.startswith(b".xfer-"):
        assert written(path, POSIX) == text


# what is said, and each bound on both its sides


@pytest.mark.parametrize(
    ("entries", "flavour", "said"),
    [
        ([file("/a")], POSIX, "/a is absolute"),
        ([file("C:x")], WINDOWS, "C:x is absolute"),
        ([file("\\x")], WINDOWS, "\\x is absolute"),
        ([file("/".join("d" * 129))], POSIX, "/".join("d" * 129)[:240] + "… is nested too deeply"),
        ([file(".Xfer-1/x")], POSIX, ".Xfer-1/x looks like a temporary folder of xfer"),
        ([file("a//b")], POSIX, "a//b has an empty part"),
        ([file("a/.")], POSIX, "a/. has a part that is ."),
        ([file("a/../b")], POSIX, "a/../b has a part that is .."),
        ([file("a\\..\\b")], WINDOWS, "a\\..\\b has a part that is .."),
        ([file(b"a\0")], POSIX, "a\\x00 has a NUL in it"),
        ([file("d/" + "x" * 256)], POSIX, "d/" + "x" * 238 + "… has a part that is too long"),
        ([file("a"), file("a")], POSIX, "a stands in the manifest twice"),
        ([file("a/b"), file("a")], POSIX, "a is said to be no folder, yet has something under it"),
        ([file("a"), file("a/b")], POSIX, "a/b lies under something that is a file"),
        ([link("a", "b"), file("a/b")], POSIX, "a/b lies under something that is a link"),
        ([file("A"), file("a")], MACOS, "a cannot be told from A in this folder"),
        ([file("A/x"), file("a/y")], MACOS, "a/y cannot be told from A in this folder"),
        ([link("l", "")], POSIX, "l is a link with an impossible target"),
        ([link("l", b"x\0")], POSIX, "l is a link with an impossible target"),
        ([link("l", "/x")], POSIX, "l is a link to the absolute path /x"),
        ([link("l", "../x")], POSIX, "l is a link that leaves the folder: ../x"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_each_refusal_says_what_is_wrong_with_which_name(
    entries: list[Entry], flavour: Flavour, said: str
) -> None:
    with pytest.raises(UnsafeName) as refusal:
        admit(entries, flavour)
    assert refusal.value.what == said
    assert (refusal.value.next_step or "").startswith("fetch with --unsafe-links") is (
        "absolute path" in said or "leaves" in said
    )


def test_a_link_that_is_kept_unsafe_still_needs_a_target() -> None:
    for target in (b"", b"a\0"):
        with pytest.raises(UnsafeName, match="impossible target"):
            through(link("l", target), unsafe_links=True)


def test_a_part_has_255_bytes_and_on_windows_255_utf16_units() -> None:
    assert written("x" * 255, POSIX) == "x" * 255
    assert written("é" * 127 + "x", POSIX) == "é" * 127 + "x"
    assert written("é" * 255, WINDOWS) == "é" * 255
    assert written("🎉" * 127 + "x", WINDOWS) == "🎉" * 127 + "x"
    for path, flavour in (
        ("é" * 128, POSIX),
        ("é" * 128, MACOS),
        ("🎉" * 128, WINDOWS),
        ("é" * 256, WINDOWS),
    ):
        with pytest.raises(UnsafeName, match="too long"):
            admit([file(path)], flavour)


def test_a_path_has_128_parts() -> None:
    assert len(through(file("/".join("d" * 128))).places[0].parts) == 128


def test_a_temporary_folder_of_ours_is_known_at_the_top_only() -> None:
    assert written("a/.xfer-1", POSIX) == "a/.xfer-1"
    assert written(".xfer", POSIX) == ".xfer"
    assert written("..xfer-1", POSIX) == "..xfer-1"


def test_twenty_notices_are_told_and_one_more_stands_for_the_others() -> None:
    for count, lines in ((20, 20), (21, 21), (22, 21)):
        notices = through(*(file(f"{n}\x01") for n in range(count))).notices
        assert len(notices) == lines
        assert ("more names" in notices[-1]) is (count > 20)
        if count > 20:
            assert notices[-1] == f"{count - 20} more names are written with escapes"


def test_an_escaped_folder_is_told_once_however_much_lies_in_it() -> None:
    assert len(through(file("d\x01/a"), file("d\x01/b"), folder("d\x01")).notices) == 1


def test_printable_shows_240_characters() -> None:
    assert printable("x" * 240) == "x" * 240
    assert printable("x" * 241) == "x" * 240 + "…"
    assert printable("x" * 5, 4) == "xxxx…"


@pytest.mark.parametrize(("byte", "shown"), [(0x80, "\\x80"), (0xFF, "\\xff")])
def test_a_byte_that_is_no_text_is_shown_as_that_byte(byte: int, shown: str) -> None:
    assert printable(os.fsdecode(bytes([byte]))) == shown
    assert printable("\udc7f") == "\\udc7f"
    assert printable("\udd00") == "\\udd00"


def test_a_link_goes_up_from_where_it_lies_and_down_again_by_what_is_there() -> None:
    entries = [folder("a/b"), file("a/x"), link("a/b/l", "../../a/x")]
    assert through(*entries).places[-1].target == "../../a/x"
    with pytest.raises(UnsafeName, match="leaves"):
        through(folder("a/b"), link("a/b/l", "../../../x"))
    with pytest.raises(UnsafeName, match="leaves"):
        through(link("k", "a"), folder("a"), link("l", "k/.."))
    assert through(folder("k"), link("l", "k/..")).places[-1].target == "k/.."
    assert through(link("l", "gone/gone/../..")).places[-1].target == "gone/gone/../.."


def test_links_may_lie_in_folders_that_the_manifest_does_not_list() -> None:
    places = through(link("a/b/l", "../c"), folder("a"), folder("a/b")).places
    assert [place.target for place in places] == ["../c", "", ""]
    with pytest.raises(UnsafeName, match="twice"):
        through(file("a/x"), folder("a"), folder("a"))


def test_what_is_escaped_in_a_name_says_the_worst_of_it() -> None:
    assert "control" in through(file("\u202e\x01")).notices[0]
    assert "invisible" in through(file(b"\xff\xe2\x80\xae"), flavour=MACOS).notices[0]
    assert "cannot be stored" in through(file(b"caf\xe9"), flavour=MACOS).notices[0]
