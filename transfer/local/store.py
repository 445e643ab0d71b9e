"""The local S3 store: SeaweedFS in one process, on loopback only, without telemetry; and, for others, an S3 gateway with TLS."""

from __future__ import annotations

import contextlib
from pathlib import Path

from transfer.local.folder import Folder, write_private
from transfer.local.listening import Listening
from transfer.local.ports import GRPC, LOOPBACK, Ports
from transfer.local.programs import find

BUCKET = "xfer"
_SOCKETS = ("s3", "filer")


def argv(folder: Folder, ports: Ports, listening: Listening | None = None) -> list[str]:
    """The command, to be run in the folder: its names are relative, so commas and long paths do no harm.

    listening: if given, S3 is the gateway's, since in this process all would be bound to one address.
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
        f"-s3={'false' if listening else 'true'}",
    ]


def forget_gateway(folder: Folder) -> None:
    """SeaweedFS keeps its options, and takes a kept `s3=false` for more than a `-s3=true`, which is the default."""
    kept = folder.root / "store" / "mini.options"
    with contextlib.suppress(FileNotFoundError):
        lines = kept.read_bytes().splitlines(keepends=True)
        write_private(kept, b"".join(line for line in lines if not line.startswith(b"s3=")))


def gateway_argv(folder: Folder, ports: Ports, listening: Listening) -> list[str]:
    """The S3 gateway's command, to be run in the folder's `tls`, whose security.toml it reads."""
    return [
        find("weed"),
        "s3",
        f"-filer={LOOPBACK}:{ports.filer}",
        f"-ip={LOOPBACK}",
        f"-ip.bind={listening.host}",
        f"-port={ports.s3}",
        "-port.iceberg=0",
        "-port.lance=0",
        "-iam=false",  # keys are made here, and by nobody from afar
        f"-config=../{folder.s3_config.name}",
        f"-cert.file={folder.certificate.name}",
        f"-key.file={folder.certificate_key.name}",
        "-localSocket=../s3.sock",
        "-localFilerSocket=../filer.sock",
    ]


def write_security(folder: Folder) -> None:
    """The gateway also listens for gRPC: there it wants a certificate of our authority, which gives nobody one."""
    paths = {"cert": folder.certificate.name, "key": folder.certificate_key.name}
    pairs = "".join(f'{name} = "{path}"\n' for name, path in paths.items())
    text = f'[grpc]\nca = "{folder.authority.name}"\n\n[grpc.s3]\n{pairs}'
    write_private(folder.tls / "security.toml", text.encode())


def endpoint(ports: Ports, listening: Listening | None = None) -> str:
    return f"https://{listening.name}:{ports.s3}" if listening else f"http://{LOOPBACK}:{ports.s3}"


def sweep_sockets(folder: Folder, ports: Ports) -> None:
    """Remove the sockets that SeaweedFS leaves behind, some of them in /tmp: it lets us choose only two."""
    for name in _SOCKETS:
        (folder.root / f"{name}.sock").unlink(missing_ok=True)
    parts = (("master", ports.master), ("volume", ports.volume), ("filer", ports.filer))
    for name, port in (*parts, ("s3", ports.s3), ("admin", ports.admin)):
        Path(f"/tmp/seaweedfs-{name}-grpc-{port + GRPC}.sock").unlink(missing_ok=True)
