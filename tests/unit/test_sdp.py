"""SDP of data channels: what others say is read, what we say is read again, and nothing that has no bounds is."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from transfer.errors import ProtocolError
from transfer.transports.sdp import MAX_SDP, Session, read, write
from transfer.wire import MAX_CANDIDATES, MAX_MESSAGE, Description

PRINT = ":".join(["A1"] * 32)
CHROMIUM = f"""v=0
o=- 5486820700271414685 2 IN IP4 127.0.0.1
s=-
t=0 0
a=group:BUNDLE 0
a=extmap-allow-mixed
a=msid-semantic: WMS
m=application 9 UDP/DTLS/SCTP webrtc-datachannel
c=IN IP4 0.0.0.0
a=candidate:1574560838 1 udp 2113937151 88da89e2-d5f4-4727-8cb8-48dc57c34299.local 56137 typ host generation 0
a=ice-ufrag:4cNo
a=ice-pwd:6c7eN1T5mSntaaqSJdQuwJrd
a=ice-options:trickle
a=fingerprint:sha-256 {PRINT}
a=setup:actpass
a=mid:0
a=sctp-port:5000
a=max-message-size:262144
"""
FIREFOX = f"""v=0
o=mozilla...THIS_IS_SDPARTA-99.0 3344942761049 0 IN IP4 0.0.0.0
s=-
t=0 0
a=fingerprint:sha-256 {PRINT}
a=group:BUNDLE 0
a=ice-options:trickle
a=msid-semantic:WMS *
m=application 9 UDP/DTLS/SCTP webrtc-datachannel
c=IN IP4 0.0.0.0
a=candidate:0 1 UDP 2122252543 192.0.2.7 56137 typ host
a=candidate:1 1 TCP 2105524479 192.0.2.7 9 typ host tcptype active
a=sendrecv
a=end-of-candidates
a=ice-pwd:9b5ea7b8bb0b7f2ffd4c3ce5c7a3a3a1
a=ice-ufrag:a1b2c3d4
a=mid:0
a=setup:active
a=sctp-port:5000
a=max-message-size:1073741823
"""
LIBDATACHANNEL = f"""v=0
o=rtc 2087017447 0 IN IP4 127.0.0.1
s=-
t=0 0
a=group:BUNDLE data
a=msid-semantic:WMS *
a=ice-options:ice2,trickle
a=fingerprint:sha-256 {PRINT.lower()}
a=setup:passive
a=ice-ufrag:OXaL
a=ice-pwd:cxtTR7U8C5UubA8+7fqi1J
m=application 44422 UDP/DTLS/SCTP webrtc-datachannel
c=IN IP4 192.0.2.2
a=mid:data
a=sendrecv
a=sctp-port:6000
a=max-message-size:0
a=candidate:2 1 UDP 2130706175 fd00::2 44422 typ host
"""

LETTERS = "ABCDEFabcdef0123456789+"
described = st.builds(
    Description,
    ufrag=st.text(LETTERS, min_size=4, max_size=32),
    password=st.text(LETTERS, min_size=22, max_size=64),
    candidates=st.lists(
        st.text(LETTERS + ".: ", min_size=1, max_size=80).map(str.strip), max_size=MAX_CANDIDATES
    ),
    fingerprints=st.lists(
        st.tuples(
            st.sampled_from(["sha-256", "sha-512"]),
            st.binary(min_size=1, max_size=64).map(lambda value: value.hex(":").upper()),
        ),
        min_size=1,
        max_size=8,
    ),
    setup=st.sampled_from(["active", "passive", "actpass"]),
    init=st.just(b""),
    max_message=st.integers(1, 1 << 40),
)
sessions = st.builds(
    Session, described, st.text(LETTERS, max_size=16), st.integers(1, 65535), st.booleans()
).map(lambda session: session if session.mid else session._replace(bundled=False))


def with_line(line: str) -> str:
    return CHROMIUM + line + "\n"


def without(start: str) -> str:
    return "".join(line for line in CHROMIUM.splitlines(keepends=True) if not line.startswith(start))


# --- what others say


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_chromiums_offer_is_read(end: str) -> None:
    session = read(CHROMIUM.replace("\n", end))
    assert session == Session(
        Description(
            ufrag="4cNo",
            password="6c7eN1T5mSntaaqSJdQuwJrd",
            candidates=[
                "1574560838 1 udp 2113937151 88da89e2-d5f4-4727-8cb8-48dc57c34299.local 56137 typ host generation 0"
            ],
            fingerprints=[("sha-256", PRINT)],
            setup="actpass",
            init=b"",
            max_message=262144,
        )
    )


def test_what_firefox_says_of_the_whole_session_is_read() -> None:
    session = read(FIREFOX)
    assert session.description.fingerprints == [("sha-256", PRINT)]
    assert session.description.setup == "active"
    assert len(session.description.candidates) == 2


def test_libdatachannels_offer_is_read() -> None:
    session = read(LIBDATACHANNEL)
    assert (session.mid, session.port, session.bundled) == ("data", 6000, True)
    assert session.description.fingerprints == [("sha-256", PRINT)]
    assert session.description.max_message == MAX_MESSAGE, "0 is no limit"


def test_what_the_section_says_goes_before_what_the_session_says() -> None:
    session = read(FIREFOX.replace("a=setup:active", f"a=setup:active\na=fingerprint:sha-512 {PRINT}"))
    assert session.description.fingerprints == [("sha-512", PRINT)]


def test_a_size_that_is_not_stated_is_64_kib() -> None:
    assert read(without("a=max-message-size")).description.max_message == 1 << 16


def test_a_section_without_a_name_is_in_no_bundle() -> None:
    session = read(without("a=mid"))
    assert (session.mid, session.bundled) == ("", False)
    assert "BUNDLE" not in write(session, 1)
    assert "a=mid" not in write(session, 1)


@pytest.mark.parametrize("name", ["ice-ufrag", "ice-pwd", "fingerprint", "setup", "sctp-port"])
def test_what_is_lacking_is_named(name: str) -> None:
    with pytest.raises(ProtocolError, match="certificate" if name == "fingerprint" else f"lacks {name}"):
        read(without(f"a={name}"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "v=1\n" + CHROMIUM[4:],
        without("m="),
        without("m=") + "m=audio 9 UDP/TLS/RTP/SAVPF 111\n",
        CHROMIUM + CHROMIUM[CHROMIUM.index("m=") :],
        with_line("m=audio 9 UDP/TLS/RTP/SAVPF 111"),
        CHROMIUM.replace("UDP/DTLS/SCTP", "DTLS/SCTP"),
        CHROMIUM.replace("webrtc-datachannel", "5000"),
        with_line("a line that is none"),
        with_line("a=mid:x\ra=mid:y"),
        with_line("a=mid:" + "x" * 65),
        with_line("a=mid:a b"),
        with_line("a=setup:holdconn"),
        with_line("a=setup:"),
        with_line("a=ice-ufrag:abc"),
        with_line("a=ice-ufrag:" + "u" * 257),
        with_line("a=ice-pwd:über" * 4),
        with_line("a=sctp-port:0"),
        with_line("a=sctp-port:65536"),
        with_line("a=sctp-port:-1"),
        with_line("a=sctp-port:٥٠٠٠"),
        with_line("a=sctp-port:" + "9" * 5000),
        with_line("a=max-message-size:many"),
        with_line("a=max-message-size:" + "9" * 5000),
        with_line("a=fingerprint:sha-256"),
        with_line("a=fingerprint:sha-256 A1:B"),
        with_line("a=fingerprint:sha-256 " + ":".join(["A1"] * 129)),
        CHROMIUM + f"a=fingerprint:sha-256 {PRINT}\n" * 8,
        CHROMIUM + "a=candidate:1 1 udp 1 192.0.2.7 9 typ host\n" * MAX_CANDIDATES,
        CHROMIUM.replace("t=0 0", "t=0 0\na=ice-lite"),
        with_line("a=x:" + "y" * MAX_SDP),
    ],
)
def test_what_makes_no_sense_or_has_no_bounds_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError):
        read(text)


def test_a_refusal_is_told_as_one() -> None:
    with pytest.raises(ProtocolError, match="refused the data channel"):
        read(CHROMIUM.replace("m=application 9", "m=application 0"))


@pytest.mark.parametrize(
    "text",
    [
        CHROMIUM * 16_000,
        "v=0\n" + "a=candidate:1 1 udp 1 192.0.2.7 9 typ host\n" * 250_000,
        CHROMIUM + "a=" + "x:" * 5_000_000,
        "\n" * 10_000_000,
    ],
    ids=["sessions", "candidates", "line", "nothing"],
)
def test_ten_megabytes_are_refused_at_once(text: str) -> None:
    began = time.thread_time()  # of the processor: other tests run beside
    with pytest.raises(ProtocolError):
        read(text)
    assert time.thread_time() - began < 0.5


@pytest.mark.parametrize(
    "filling",
    [
        "\n",
        "a=\n",
        "a=x\n",
        "a=group:BUNDLE 0\n",
        "a=mid:0\n",
        "a=fingerprint:sha-256 A1:A1\n",
        "m=a 1 b c\n",
        "a=" + ": " * 99,
    ],
)
def test_as_much_as_may_come_is_read_in_no_time(filling: str) -> None:
    text = CHROMIUM + filling * ((MAX_SDP - len(CHROMIUM)) // len(filling))
    began = time.thread_time()
    with contextlib.suppress(ProtocolError):
        read(text)
    assert time.thread_time() - began < 1.0


# --- what we say


@given(sessions, st.integers(0, (1 << 62) - 1))
def test_what_was_made_is_read_again(session: Session, number: int) -> None:
    text = write(session, number)
    assert text.endswith("\r\n")
    assert all(line[1] == "=" for line in text.split("\r\n")[:-1])
    assert read(text) == session


@pytest.mark.parametrize("field", ["ufrag", "password", "setup"])
def test_a_description_whose_fields_hold_lines_of_their_own_is_not_written(field: str) -> None:
    """It is the peer's, and aiortc would read them."""
    session = read(CHROMIUM)
    text = getattr(session.description, field) + "\r\nm=video 9 UDP/TLS/RTP/SAVPF 96"
    with pytest.raises(ProtocolError, match="line breaks"):
        write(Session(replace(session.description, **{field: text})), 1)


def test_an_offer_reads_as_others_expect_it() -> None:
    description = Description(
        ufrag="abcd",
        password="p" * 22,
        candidates=["1 1 udp 2 192.0.2.7 9 typ host"],
        fingerprints=[("sha-256", PRINT)],
        setup="actpass",
        init=b"not for SDP",
    )
    assert write(Session(description), 77).split("\r\n") == [
        "v=0",
        "o=- 77 1 IN IP4 0.0.0.0",
        "s=-",
        "t=0 0",
        "a=group:BUNDLE 0",
        "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
        "c=IN IP4 0.0.0.0",
        "a=mid:0",
        "a=ice-ufrag:abcd",
        "a=ice-pwd:pppppppppppppppppppppp",
        f"a=fingerprint:sha-256 {PRINT}",
        "a=setup:actpass",
        "a=sctp-port:5000",
        "a=max-message-size:65536",
        "a=candidate:1 1 udp 2 192.0.2.7 9 typ host",
        "a=end-of-candidates",
        "",
    ]


# --- whatever comes


@given(st.text(max_size=300))
def test_any_text_is_refused_or_read(text: str) -> None:
    for whole in (text, "v=0\n" + text, CHROMIUM + text, CHROMIUM.replace("a=mid:0", text)):
        _refused_or_read(whole)


@given(st.sampled_from([CHROMIUM, FIREFOX, LIBDATACHANNEL]), st.data())
def test_an_sdp_that_was_changed_is_refused_or_read(text: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(text)))
    length = data.draw(st.integers(0, 60))
    _refused_or_read(text[:at] + data.draw(st.text(max_size=20)) + text[at + length :])


def _refused_or_read(text: str) -> None:
    try:
        session = read(text)
    except ProtocolError:
        return
    assert read(write(session, 1)) == session
