"""`xfer broker`: the broker alone, for people who have NATS and S3."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = (
    "xfer broker --nats-url nats://bus.example:4222 --nats-creds broker.nk --bucket xfer",
    "xfer broker --endpoint-url https://minio.example --bucket xfer",
)


def broker(
    nats_url: Annotated[
        str | None,
        typer.Option("--nats-url", metavar="URL", envvar="NATS_URL", help="Where NATS is: nats://HOST:4222"),
    ] = None,
    nats_creds: Annotated[
        Path | None,
        typer.Option(
            "--nats-creds", metavar="FILE", envvar="NATS_CREDS", help="A .creds file, or an nkey seed"
        ),
    ] = None,
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
    """Run a broker in the foreground; S3 keys come from AWS_* or the AWS files."""
    import asyncio
    import logging
    import os

    from transfer.broker import logs
    from transfer.broker.__main__ import serve
    from transfer.broker.settings import Settings

    given = {
        "NATS_URL": nats_url,
        "NATS_CREDS": str(nats_creds.expanduser()) if nats_creds else None,
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
