"""What a broker is told: where NATS and the store are, and how long things live."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from transfer.broker.job import OPEN_LIFE
from transfer.broker.keys import DAY
from transfer.broker.logs import FORMS
from transfer.errors import NotConfigured, UsageError

ORPHAN_AGE = 900.0
"""Seconds. An upload is begun, and an object made, a moment before a record says so; a broker gives up such a step
after `service.ANSWER_WITHIN`, so what is older than minutes will never be on record."""
MAX_URL_LIFE = 7 * DAY
"""Seconds. Source: SigV4 query authentication, X-Amz-Expires is at most 604800."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Credentials are not among them: NATS' are in a file, the store's come from boto3's own chain (AWS_*).

    endpoint_url: None means AWS. prefix: of every object key, ends with "/". url_life: seconds a signed
    URL is good for. sweep_every: seconds between two passes. unfinished_life: seconds without progress
    after which an unfinished job is swept. orphan_age: seconds after which what no job owns is removed from the
    store; such things are looked for as often. lifecycle: whether to give the bucket rules of its own for that.
    rules: the operator's (`rules.Rules`), None for the defaults. replicas: on how many servers of a NATS cluster
    everything is kept that brokers keep there. work_tries: after so many what a broker owes becomes a dead letter.
    metrics: the loopback port that shows them, 0: none. log: the form of what is said on stderr (`logs.FORMS`).
    ca: PEM file of the authorities that may vouch for
    NATS and for a store with an endpoint_url, and no others; None: those of the system.
    """

    nats_url: str
    nats_creds: Path | None = None
    ca: Path | None = None
    endpoint_url: str | None = None
    bucket: str = "xfer"
    region: str | None = None
    prefix: str = "xfer/"
    url_life: float = 900.0
    sweep_every: float = 60.0
    unfinished_life: float = 7 * DAY
    orphan_age: float = ORPHAN_AGE
    lifecycle: bool = True
    rules: Path | None = None
    replicas: int = 1
    work_tries: int = 16
    metrics: int = 0
    log: str = "text"

    def __post_init__(self) -> None:
        if not 1 <= self.url_life <= MAX_URL_LIFE:
            raise UsageError("signed URLs must live between 1 second and 7 days")
        if not (self.sweep_every > 0 and self.orphan_age > 0):  # NaN is neither
            raise UsageError("sweep_every and orphan_age must be more than 0 seconds")
        if not 0 < self.unfinished_life <= OPEN_LIFE:
            raise UsageError(
                f"unfinished_life must be more than 0 seconds and at most {OPEN_LIFE / DAY:g} days"
            )
        if self.replicas not in (1, 3, 5):
            raise UsageError("XFER_REPLICAS must be 1, 3 or 5: a majority of them must be there")
        if self.work_tries < 1:
            raise UsageError("XFER_WORK_TRIES must be at least 1")
        if not 0 <= self.metrics < 65536:
            raise UsageError("metrics need a port, or 0 for none")
        if self.log not in FORMS:
            raise UsageError("the log is text or json", hint="mend XFER_LOG")
        if self.prefix and not self.prefix.endswith("/"):
            raise UsageError("the prefix of object keys must end with a slash")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read NATS_*, AWS_* and XFER_* variables; an empty one counts as unset.

        Raises:
            NotConfigured: NATS_URL is missing.
            UsageError: a number is none, or out of bounds.
        """

        def first(*names: str) -> str | None:
            return next((environment[name] for name in names if environment.get(name)), None)

        def seconds(name: str, default: float) -> float:
            text = first(name)
            try:
                return default if text is None else float(text)
            except ValueError:
                raise UsageError(f"{name} must be a number of seconds") from None

        def count(name: str, default: int) -> int:
            text = first(name)
            try:
                return default if text is None else int(text)
            except ValueError:
                raise UsageError(f"{name} must be a whole number") from None

        def port(name: str, default: int) -> int:
            text = first(name)
            if text is not None and not (text.isascii() and text.isdigit()):
                raise UsageError(f"{name} must be the number of a port, or 0 for none")
            return default if text is None else int(text)

        def choice(name: str, default: bool) -> bool:
            text = first(name)
            if text not in (None, "on", "off"):
                raise UsageError(f"{name} must be on or off")
            return default if text is None else text == "on"

        nats_url = first("NATS_URL")
        if nats_url is None:
            raise NotConfigured(
                "the broker needs NATS_URL", hint="set NATS_URL, for example nats://127.0.0.1:4222"
            )
        creds, rules, ca = first("NATS_CREDS"), first("XFER_RULES"), first("XFER_CA")
        return cls(
            nats_url=nats_url,
            nats_creds=Path(creds) if creds else None,
            ca=Path(ca) if ca else None,
            endpoint_url=first("XFER_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
            bucket=first("XFER_BUCKET") or cls.bucket,
            region=first("AWS_REGION", "AWS_DEFAULT_REGION"),
            prefix=first("XFER_PREFIX") or cls.prefix,
            url_life=seconds("XFER_URL_LIFE", cls.url_life),
            sweep_every=seconds("XFER_SWEEP_EVERY", cls.sweep_every),
            unfinished_life=seconds("XFER_UNFINISHED_LIFE", cls.unfinished_life),
            orphan_age=seconds("XFER_ORPHAN_AGE", cls.orphan_age),
            lifecycle=choice("XFER_LIFECYCLE", cls.lifecycle),
            rules=Path(rules) if rules else None,
            replicas=count("XFER_REPLICAS", cls.replicas),
            work_tries=count("XFER_WORK_TRIES", cls.work_tries),
            metrics=port("XFER_METRICS", cls.metrics),
            log=first("XFER_LOG") or cls.log,
        )
