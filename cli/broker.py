"""`xfer broker`: the broker alone, for people who have NATS and S3."""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import Annotated

import typer

from cli import options
from cli.options import Ca, NatsCreds

EXAMPLES = (
    "xfer broker --nats-url tls://bus.example:4222 --nats-creds broker.nk --bucket xfer",
    "xfer broker permissions ann bob",
)
EXAMPLES_OF = {
    "permissions": (
        "xfer broker permissions broker=UBROKERSNKEY ann=UANNSNKEY bob > xfer.conf",
        "xfer broker permissions ann bob --form nsc",
    ),
    "key": (
        "xfer broker key ann.nk",
        "xfer broker key /etc/xfer/broker.nk",
    ),
}


class Form(enum.StrEnum):
    """How NATS servers are told."""

    CONFIG = "config"
    NSC = "nsc"


def broker(
    nats_url: Annotated[str | None, options.nats_url()] = None,
    nats_creds: NatsCreds = None,
    ca: Ca = None,
    endpoint_url: Annotated[
        str | None,
        typer.Option(
            "--endpoint-url", metavar="URL", envvar="XFER_S3_ENDPOINT", help="The S3 store; default: AWS"
        ),
    ] = None,
    bucket: Annotated[
        str | None,
        typer.Option("--bucket", metavar="NAME", envvar="XFER_BUCKET", help="Where objects go [xfer]"),
    ] = None,
    region: Annotated[
        str | None, typer.Option("--region", metavar="NAME", envvar="AWS_REGION", help="The store's region")
    ] = None,
    rules: Annotated[
        Path | None,
        typer.Option("--rules", metavar="FILE", envvar="XFER_RULES", help="Quotas and admins, as TOML"),
    ] = None,
    metrics: Annotated[
        int | None,
        typer.Option(
            "--metrics", metavar="PORT", envvar="XFER_METRICS", help="Prometheus, on loopback [0: off]"
        ),
    ] = None,
    log: Annotated[
        str | None, typer.Option("--log", metavar="text|json", envvar="XFER_LOG", help="How it logs [text]")
    ] = None,
) -> None:
    """Run a broker here; its S3 keys come from AWS_* or the AWS files."""
    import asyncio
    import logging
    import os

    from transfer.broker import logs
    from transfer.broker.__main__ import serve
    from transfer.broker.settings import Settings

    given = {
        "NATS_URL": nats_url,
        "NATS_CREDS": str(nats_creds.expanduser()) if nats_creds else None,
        "XFER_CA": str(ca.expanduser()) if ca else None,
        "XFER_S3_ENDPOINT": endpoint_url,
        "XFER_BUCKET": bucket,
        "AWS_REGION": region,
        "XFER_RULES": str(rules.expanduser()) if rules else None,
        "XFER_METRICS": None if metrics is None else str(metrics),
        "XFER_LOG": log,
    }
    settings = Settings.from_environment(
        {**os.environ, **{name: value for name, value in given.items() if value}}
    )
    logs.configure(settings.log)
    ready = f"ready, bucket {settings.bucket}"
    asyncio.run(serve(settings, lambda: logging.info(ready)))


def permissions(
    user: Annotated[
        list[str], typer.Argument(metavar="USER...", help="NAME, or NAME=PUBLIC_NKEY; the broker's is added")
    ],
    form: Annotated[
        Form, typer.Option("--form", envvar="XFER_FORM", help="For nats-server's file, or as commands of nsc")
    ] = Form.CONFIG,
) -> None:
    """Print what a NATS server of others must allow each user and the broker."""
    from transfer.permissions import config_form, nsc_form, parse_users

    users = parse_users(user)
    sys.stdout.write(config_form(users) if form is Form.CONFIG else nsc_form(users))


def key(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the seed goes (0600); must not exist")],
) -> None:
    """Make an nkey for a NATS server of others; the public one is printed."""
    import os

    from transfer.errors import DestinationExists
    from transfer.local.credentials import make_nkey

    seed, public = make_nkey()
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise DestinationExists(f"{file} is there already", hint="choose another name") from None
    with open(handle, "w") as out:
        out.write(seed)
    sys.stdout.write(public + "\n")
