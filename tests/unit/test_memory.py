"""How the process keeps memory: a freed buffer is there for the next one, without the kernel clearing it anew."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from cli import memory

ROOT = Path(__file__).resolve().parents[2]
PAGES_A_BUFFER = """
import gc, resource, sys, threading
from cli import memory
settled, mib = sys.argv[1] == "settled", int(sys.argv[2])
if settled:
    memory.settle()
assert bool(gc.get_freeze_count()) is settled

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def work():
    for _ in range(10):
        several = [b"x" * (mib << 20) for _ in range(3)]
        del several

work()
before = faults()
thread = threading.Thread(target=work)  # buffers are made in threads, and freed in others
thread.start()
thread.join()
work()
print((faults() - before) / 60)
"""
glibc = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="glibc's malloc"
)


def pages_cleared(how: str, mib: int) -> float:
    """Pages that the kernel hands out for each buffer of that size, in a process of its own."""
    ended = subprocess.run(
        [sys.executable, "-P", "-c", PAGES_A_BUFFER, how, str(mib)],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(ended.stdout)


@glibc
@pytest.mark.parametrize("mib", [1, 9, 25])
def test_a_freed_buffer_is_used_again(mib: int) -> None:
    """25 MiB: a part of two encoded chunks of a large job, nearly."""
    assert pages_cleared("settled", mib) < 0.25 * (mib << 20) / 4096


@glibc
def test_without_it_the_kernel_clears_most_pages_of_most_buffers() -> None:
    """Else there would be nothing to settle."""
    assert pages_cleared("as it comes", 9) > 0.5 * (9 << 20) / 4096


@glibc
def test_every_setting_is_one_that_any_glibc_takes() -> None:
    """mallopt(3): DEFAULT_MMAP_THRESHOLD_MAX, 4 MiB times the size of a long, is the most before glibc 2.35."""
    most = 4 * 1024 * 1024 * ctypes.sizeof(ctypes.c_long)
    assert most >= memory._MMAP_THRESHOLD


def test_elsewhere_nothing_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen: list[int] = []
    monkeypatch.setattr(memory.gc, "freeze", lambda: frozen.append(1))
    monkeypatch.setattr(memory.sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: pytest.fail("there is no libc to tune"))
    memory.settle()
    assert frozen == [1]


def test_a_c_library_without_mallopt_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """musl."""
    monkeypatch.setattr(memory.gc, "freeze", lambda: None)
    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    memory.settle()
