"""How the process keeps memory: a freed buffer is there for the next one, without the kernel clearing it anew."""

from __future__ import annotations

import ctypes
import gc
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
MEMORY_OF_THREADS = """
import sys, threading
from cli import memory
if sys.argv[1] == "settled":
    memory.settle()
turn, over = threading.Lock(), threading.Barrier(5)

def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096

def work():
    with turn:
        several = [b"x" * (4 << 20) for _ in range(3)]
        del several
    over.wait()  # a thread that ends leaves its arena to the next

before = resident()
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
over.wait()
print((resident() - before) / (12 << 20))
"""
glibc = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="glibc's malloc"
)


def pages_cleared(how: str, mib: int) -> float:
    """Pages that the kernel hands out for each buffer of that size."""
    return said_by(PAGES_A_BUFFER, how, str(mib))


def said_by(code: str, *args: str) -> float:
    """In a process of its own."""
    ended = subprocess.run(
        [sys.executable, "-P", "-c", code, *args],
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
def test_threads_keep_no_freed_buffers_each_of_its_own() -> None:
    """In shares of what one of them had at once."""
    assert said_by(MEMORY_OF_THREADS, "settled") < 2.0


@glibc
def test_every_setting_is_one_that_any_glibc_takes() -> None:
    """mallopt(3): DEFAULT_MMAP_THRESHOLD_MAX, 4 MiB times the size of a long, is the most before glibc 2.35."""
    most = 4 * 1024 * 1024 * ctypes.sizeof(ctypes.c_long)
    assert most >= memory._MMAP_THRESHOLD


def test_elsewhere_nothing_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen: list[int] = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(1))
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: pytest.fail("there is no libc to tune"))
    memory.settle()
    assert frozen == [1]


def test_a_c_library_without_mallopt_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """musl."""
    monkeypatch.setattr(gc, "freeze", lambda: None)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    memory.settle()
