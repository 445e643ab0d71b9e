"""What is moved: seeded, so that every run and every tool moves the same; made once a size, kept in a folder."""

from __future__ import annotations

import filecmp
import hashlib
import math
import os
import random
import shutil
import tarfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec
import zstandard
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

MIB = 1 << 20
PIECE = 16 * MIB
KINDS = {
    "random": "random bytes",
    "json": "JSON labels of pictures",
    "tree": "a tree of small files",
    "tar": "a tar of the system's libraries",
}
SYSTEM_TREES = ("/usr/lib", "/usr/share", "/usr/bin")
CLASSES = (
    "car", "truck", "bus", "person", "rider", "bicycle", "motorcycle", "traffic light", "traffic sign", "train",
    "lane/single white", "lane/road curb", "lane/crosswalk", "drivable area",
)  # fmt: skip
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
SCENES = ("city street", "highway", "residential", "parking lot", "tunnel", "gas station")
WEATHER = ("clear", "overcast", "partly cloudy", "rainy", "snowy", "foggy")


@dataclass(frozen=True)
class Dataset:
    """path: a file or a folder. size: bytes in all. ratio: how much zstd level 3 makes of it, first 64 MiB; 1: nothing."""

    kind: str
    path: Path
    size: int
    files: int
    ratio: float

    def warm(self) -> None:
        """Read all of it, so that every tool finds it in memory."""
        for path in _files(self.path):
            with open(path, "rb", buffering=0) as file:
                while file.read(MIB):
                    pass


def make(kind: str, amount: int, folder: Path) -> Dataset:
    """amount: bytes; of a tree: files. What is there already is taken as it is."""
    name = {"tree": f"tree-{amount}", "tar": f"system-{amount}.tar", "json": f"labels-{amount}.json"}
    path = folder / name.get(kind, f"{kind}-{amount}.bin")
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        {"random": _random, "json": _labels, "tree": _tree, "tar": _tar}[kind](part, amount)
        part.rename(path)
    sizes = [file.stat().st_size for file in _files(path)]
    return Dataset(kind, path, sum(sizes), len(sizes), _ratio(path))


def noise(seed: int) -> Iterator[bytes]:
    """Random bytes without end, a piece at a time: the key stream of AES in counter mode."""
    stream = Cipher(algorithms.AES(seed.to_bytes(16, "big")), modes.CTR(bytes(16))).encryptor()
    zeros = bytes(PIECE)
    while True:
        yield stream.update(zeros)


def messages(seed: int, size: int, largest: int) -> Iterator[bytes]:
    """Random messages of 1 to `largest` bytes, `size` bytes in all."""
    dice = random.Random(seed)
    while size > 0:
        length = min(size, dice.choice((1, largest, dice.randint(1, largest))))
        size -= length
        yield dice.randbytes(length)


def labels(seed: int, size: int) -> bytes:
    """About `size` bytes, one record a line: pictures with boxes and nested polygons, as a labelling tool exports them."""
    dice = random.Random(seed)
    encoder, lines, total = msgspec.json.Encoder(), [], 0
    while total < size:
        line = encoder.encode(_picture(dice, seed))
        lines.append(line)
        total += len(line) + 1
    return b"\n".join([*lines, b""])[:size]


def _picture(dice: random.Random, seed: int) -> dict[str, Any]:
    moment = FIRST + timedelta(seconds=seed * 40_000 + dice.randrange(40_000))
    name = f"{dice.getrandbits(32):08x}-{dice.getrandbits(32):08x}.jpg"
    return {
        "id": dice.getrandbits(40),
        "file_name": name,
        "url": f"s3://fleet-recordings/2026/batch-{seed:04d}/images/{name}",
        "width": 1280,
        "height": 720,
        "captured_at": moment,
        "attributes": {
            "weather": dice.choice(WEATHER),
            "scene": dice.choice(SCENES),
            "night": dice.random() < 0.3,
        },
        "labels": [_object(dice, moment + timedelta(days=30)) for _ in range(dice.randrange(4, 24))],
    }


def _object(dice: random.Random, moment: datetime) -> dict[str, Any]:
    kind = CLASSES[min(int(dice.expovariate(0.35)), len(CLASSES) - 1)]
    x, y, width, height = (dice.getrandbits(16) % limit / 100 for limit in (120_000, 65_000, 20_000, 15_000))
    made: dict[str, Any] = {
        "id": dice.getrandbits(40),
        "category": kind,
        "annotator": f"team-{dice.getrandbits(2)}/annotator-{dice.getrandbits(5):02d}",
        "updated_at": moment + timedelta(seconds=dice.randrange(10_000)),
        "attributes": {"occluded": dice.random() < 0.4, "truncated": dice.random() < 0.1},
        "score": dice.getrandbits(10) / 1000,
        "box2d": {"x1": x, "y1": y, "x2": round(x + width, 2), "y2": round(y + height, 2)},
    }
    if kind.startswith(("lane", "drivable")) or dice.random() < 0.3:
        made["poly2d"] = [
            {"closed": True, "vertices": _polygon(dice, x, y)} for _ in range(dice.randrange(1, 3))
        ]
    return made


def _polygon(dice: random.Random, x: float, y: float) -> list[tuple[float, float]]:
    """A walk: neighbours are near each other, as the corners of an outline are."""
    at_x, at_y, points = int(x * 100), int(y * 100), []
    for _ in range(dice.randrange(6, 30)):
        at_x += dice.getrandbits(11) - 1024
        at_y += dice.getrandbits(11) - 1024
        points.append((at_x / 100, at_y / 100))
    return points


def _random(path: Path, size: int) -> None:
    pieces = noise(seed=1)
    with open(path, "wb") as file:
        file.writelines(next(pieces)[: size - at] for at in range(0, size, PIECE))


def _labels(path: Path, size: int) -> None:
    """One process a core: Python makes about 20 MB of such records a second."""
    count = -(-size // PIECE)
    with open(path, "wb") as file, ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        file.writelines(
            piece[: size - file.tell()] for piece in pool.map(labels, range(count), [PIECE] * count)
        )


def _tree(path: Path, count: int) -> None:
    """Sizes log-normal about 3 kB, 100 B to 100 kB; two of three files are text, the others noise; 100 a folder."""
    dice, text, random_bytes = random.Random(2), labels(10_000, 4 * MIB), next(noise(seed=2))
    for number in range(count):
        folder = path / f"part-{number // 1000:02d}" / f"{number // 100 % 10}"
        if number % 100 == 0:
            folder.mkdir(parents=True)
        size = min(max(int(dice.lognormvariate(math.log(3000), 1.3)), 100), 100_000)
        kind, source = (".bin", random_bytes) if number % 3 == 0 else (".json", text)
        start = dice.randrange(len(source) - size)
        (folder / f"{number:05d}{kind}").write_bytes(source[start : start + size])


def _tar(path: Path, size: int) -> None:
    """A sample of the system's files, in an order that no folder decides, up to `size` bytes."""
    found = (f for tree in SYSTEM_TREES if Path(tree).is_dir() for f in _files(Path(tree)))
    ordered = sorted(found, key=lambda f: hashlib.blake2b(os.fsencode(f), digest_size=8).digest())
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for file in ordered:
            room = size - tar.offset
            if room < MIB // 4:
                break
            if file.stat().st_size < room - 10_240 and os.access(file, os.R_OK):
                tar.add(file, arcname=str(file).lstrip("/"), recursive=False)


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for folder, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            file = Path(folder, name)
            if file.is_file() and not file.is_symlink():
                yield file


def _ratio(path: Path) -> float:
    sample = bytearray()
    for file in _files(path):
        with open(file, "rb") as content:
            sample += content.read(64 * MIB - len(sample))
        if len(sample) >= 64 * MIB:
            break
    return len(sample) / len(zstandard.ZstdCompressor(level=3).compress(sample))


def same(one: Path, other: Path) -> bool:
    """The same bytes under the same names, whatever their modes and times."""
    filecmp.clear_cache()  # it takes files of one path, size and time for the same
    if not one.is_dir():
        return filecmp.cmp(one, other, shallow=False)
    ours, theirs = ({str(file.relative_to(top)): file for file in _files(top)} for top in (one, other))
    return ours.keys() == theirs.keys() and all(
        filecmp.cmp(file, theirs[name], shallow=False) for name, file in ours.items()
    )


def remove(path: Path) -> None:
    """Whatever is there; nothing is fine."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
