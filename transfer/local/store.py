"""The local S3 store: SeaweedFS in one process, on loopback only, without telemetry."""

from __future__ import annotations

from pathlib import Path

from transfer.local.folder import Folder
from transfer.local.ports import GRPC, Ports
from transfer.local.programs import find

BUCKET = "xfer"
_SOCKETS = ("s3", "filer")


def argv(folder: Folder, ports: Ports) -> list[str]:
    """The command, to be run in the folder: its names are relative, so commas and long paths do no harm.

    Raises XferError if the program is not installed.
    """
    return [
        find("weed"),
        "mini",
        "-dir=store",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-webdav=false",
        "-admin.ui=false",
        "-disableHttp",  # the filer's own HTTP door asks nobody for a key
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.config={folder.s3_config.name}",
        *(f"-{name}.localSocket={name}.sock" for name in _SOCKETS),
        f"-master.port={ports.master}",
        f"-volume.port={ports.volume}",
        f"-filer.port={ports.filer}",
        f"-s3.port={ports.s3}",
        f"-admin.port={ports.admin}",
    ]


def endpoint(ports: Ports) -> str:
    return f"http://127.0.0.1:{ports.s3}"


def sweep_sockets(folder: Folder, ports: Ports) -> None:
    """Remove the sockets that SeaweedFS leaves behind, some of them in /tmp: it lets us choose only two."""
    for name in _SOCKETS:
        (folder.root / f"{name}.sock").unlink(missing_ok=True)
    parts = (("master", ports.master), ("volume", ports.volume), ("filer", ports.filer))
    for name, port in (*parts, ("s3", ports.s3), ("admin", ports.admin)):
        Path(f"/tmp/seaweedfs-{name}-grpc-{port + GRPC}.sock").unlink(missing_ok=True)
