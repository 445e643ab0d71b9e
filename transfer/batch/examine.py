"""The digest of a file's content, of one version of it and no other."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from blake3 import blake3

from transfer.errors import SourceChanged, SourceTrouble
from transfer.paths import printable
from transfer.source import OPEN_FLAGS, Facts, facts_of, reason_of

BLOCK = 1 << 20


def examine(path: str, checkpoint: Callable[[], None] = lambda: None) -> tuple[Facts, bytes]:
    """What it is just now: its facts, and 32 bytes of BLAKE3 of the content that goes with them.

    checkpoint: called between blocks; whoever wants this to stop has it raise.

    Raises:
        SourceChanged: it changed while it was read, or is gone or no file any more.
        SourceTrouble: it cannot be read.
    """
    name = printable(path)
    try:
        handle = os.open(path, OPEN_FLAGS)
    except PermissionError as error:
        raise SourceTrouble(
            f"{name} cannot be read: {reason_of(error)}", hint="mend its permissions"
        ) from None
    except OSError as error:
        raise SourceChanged(f"{name} is gone or was replaced ({reason_of(error)})") from None
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise SourceChanged(f"{name} is not a file any more")
        hasher, block, left = blake3(), bytearray(BLOCK), found.st_size
        with open(handle, "rb", buffering=0, closefd=False) as file:
            while got := file.readinto(block):
                hasher.update(memoryview(block)[:got])
                left -= got
                if left < 0:  # and whoever appends to it may go on for ever
                    break
                checkpoint()
        if facts_of(os.fstat(handle)) != facts_of(found):
            raise SourceChanged(f"{name} changed while it was read")
    except OSError as error:
        raise SourceTrouble(
            f"{name} cannot be read: {reason_of(error)}", hint="mend that and run it again"
        ) from None
    finally:
        os.close(handle)
    return facts_of(found), hasher.digest()
