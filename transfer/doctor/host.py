"""This machine: its state folder, what is installed, which cipher is quicker."""

from __future__ import annotations

import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from transfer.config import state_dir
from transfer.doctor.finding import Finding, away
from transfer.units import show_size

LEAST_FREE, LITTLE_FREE = 50_000_000, 1_000_000_000
"""Bytes beside the state folder: without so many no ledger can be kept; a fetch may soon find none."""
_BLOCK = 1 << 20


def checks() -> Iterator[Finding]:
    """In the order of the lines. Takes some 30 ms."""
    yield _disk()
    yield _versions()
    yield _libraries()
    yield _cipher()


def _disk() -> Finding:
    folder = state_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"x")
            probe.flush()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding(
            "disk", "fail", f"{folder} cannot be written ({error.strerror})", "mend it, or set XFER_HOME", 1
        )
    said = f"{folder} can be written, {show_size(free)} free"
    if free < LEAST_FREE:
        return away("disk", said, "free some space: what is safe is noted there")
    if free < LITTLE_FREE:
        return Finding("disk", "note", said, "free some space before you fetch large files there")
    return Finding("disk", "ok", said)


def _versions() -> Finding:
    python = platform.python_version()
    return Finding("versions", "ok", f"xfer {installed('xfer')}, Python {python} on {platform.system()}")


def _libraries() -> Finding:
    from cryptography.hazmat.backends.openssl import backend

    openssl = [*backend.openssl_version_text().split(), "?"][1]
    others = ", ".join(
        f"{shown} {installed(name)}" for shown, name in (("BLAKE3", "blake3"), ("zstd", "zstandard"))
    )
    return Finding("libraries", "ok", f"OpenSSL {openssl}, {others}")


def _cipher() -> Finding:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    from transfer.seal import Suite, fastest_suite

    cipher, block, nonce = AESGCM(bytes(32)), bytes(_BLOCK), bytes(12)
    best = float("inf")
    for _ in range(5):  # the quickest counts: anything may interrupt one
        begun = time.perf_counter()
        cipher.encrypt(nonce, block, None)
        best = min(best, time.perf_counter() - begun)
    name = "AES-256-GCM" if fastest_suite() is Suite.AES_256_GCM else "ChaCha20-Poly1305"
    return Finding("cipher", "ok", f"{name}; AES makes {show_size(_BLOCK / best)}/s here")


def installed(name: str) -> str:
    """The version of a distribution, "?" if there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "?"
