"""Small TOML files in the config folder, for people to read and mend: 0600, replaced whole, changed by one at a time."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

import msgspec
import tomli_w

from transfer.errors import UsageError, XferError

Kind = TypeVar("Kind", bound=msgspec.Struct)


class TomlFile(Generic[Kind]):
    """kind: what it holds; every field has a default, for a file that is not there. name: without `.toml`."""

    def __init__(self, kind: type[Kind], name: str, folder: Callable[[], Path]) -> None:
        self._kind, self._name, self._folder = kind, name, folder

    @property
    def path(self) -> Path:
        return self._folder() / f"{self._name}.toml"

    def read(self) -> Kind:
        """Raises UsageError for what makes no sense, XferError for what cannot be read."""
        path = self.path
        try:
            return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), self._kind)
        except FileNotFoundError:
            return self._kind()
        except (ValueError, msgspec.ValidationError) as error:
            raise UsageError(f"{path} is not readable: {error}", hint="mend it or remove it") from None
        except OSError as error:
            raise XferError(f"{path} cannot be read: {error.strerror}", hint="mend its permissions") from None

    @contextlib.contextmanager
    def changing(self) -> Iterator[Kind]:
        """Read, let the caller change, write atomically; a second process waits, so neither's change is lost.

        Raises as `read`, and XferError for what cannot be written.
        """
        folder = self._folder()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with _exclusive(folder / f"{self._name}.lock"):
                file = self.read()
                yield file
                self._write(file)
        except OSError as error:
            raise XferError(
                f"{folder} cannot be written: {error.strerror}", hint="mend its permissions"
            ) from None

    def _write(self, file: Kind) -> None:
        table = {name: value for name, value in msgspec.to_builtins(file).items() if value is not None}
        # mkstemp makes it 0600
        handle, temporary = tempfile.mkstemp(dir=self._folder(), prefix=f".{self._name}-")
        try:
            with open(handle, "wb") as out:
                out.write(tomli_w.dumps(table).encode())
                out.flush()
                os.fsync(out.fileno())
            os.replace(temporary, self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file; waits for whoever has it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_LOCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
