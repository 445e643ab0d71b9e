"""What stands in scripts/deploy/ is what the code does: settings, S3 calls, lifecycle rules, metrics, threats, the unit."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from transfer.api import ErrorCode
from transfer.broker import lifecycle
from transfer.broker.metrics import Metrics
from transfer.broker.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "scripts" / "deploy"
README = (DEPLOY / "README.md").read_text(encoding="utf-8")
BOTO3 = frozenset(
    {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SHARED_CREDENTIALS_FILE"}
)
"""Variables that boto3 reads and we do not."""

ACTIONS = {
    "head_bucket": "s3:ListBucket",
    "list_objects_v2": "s3:ListBucket",
    "list_multipart_uploads": "s3:ListBucketMultipartUploads",
    "list_parts": "s3:ListMultipartUploadParts",
    "get_bucket_lifecycle_configuration": "s3:GetLifecycleConfiguration",
    "put_bucket_lifecycle_configuration": "s3:PutLifecycleConfiguration",
    "create_multipart_upload": "s3:PutObject",
    "upload_part": "s3:PutObject",
    "complete_multipart_upload": "s3:PutObject",
    "put_object": "s3:PutObject",
    "abort_multipart_upload": "s3:AbortMultipartUpload",
    "head_object": "s3:GetObject",
    "get_object": "s3:GetObject",
    "delete_objects": "s3:DeleteObject",
}
"""Source: Service Authorization Reference, Amazon S3."""
WITHHELD = {"create_bucket"}
"""Used only where there is no bucket: the operator makes it, as the README says."""


def table(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    below = README[README.index(f"\n{heading}\n") :]
    rows = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
    assert rows, heading
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[0].splitlines()[2:]]


# --- settings


class Asked(Mapping[str, str]):
    """An environment that notes what is asked for."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return "nats://x" if name == "NATS_URL" else default

    def __getitem__(self, name: str) -> str:
        found = self.get(name)
        if found is None:
            raise KeyError(name)
        return str(found)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def variables() -> set[str]:
    asked = Asked()
    Settings.from_environment(asked)
    return asked.names


def test_the_table_of_variables_is_what_a_broker_reads() -> None:
    named = {name for row in table("## Settings") for name in re.findall(r"`([A-Z][A-Z0-9_]+)`", row[0])}
    assert named - BOTO3 == variables()


def test_every_setting_of_the_table_says_its_default() -> None:
    assert all(len(row) == 3 and row[1] and row[2] for row in table("## Settings"))


# --- the unit


def unit_lines() -> list[tuple[str, str]]:
    text = (DEPLOY / "xfer-broker.service").read_text()
    lines = [line for line in text.splitlines() if line and line[0] not in "#["]
    return [(key, value) for key, _, value in (line.partition("=") for line in lines)]


def test_the_units_variables_are_settings() -> None:
    named = {value.partition("=")[0] for key, value in unit_lines() if key == "Environment"}
    assert named
    assert named <= variables()


def test_the_unit_waits_for_longer_than_a_drain_takes() -> None:
    from transfer.broker.__main__ import CLOSE_WITHIN
    from transfer.broker.service import DRAIN_WITHIN

    assert float(dict(unit_lines())["TimeoutStopSec"]) > 2 * DRAIN_WITHIN + CLOSE_WITHIN


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "xfer-broker.service"
    text = (DEPLOY / "xfer-broker.service").read_text()
    unit.write_text(text.replace("/opt/xfer/bin/xfer", shutil.which("true") or "/bin/true"))
    env = {**os.environ, "SYSTEMD_LOG_TARGET": "console"}
    ended = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, env=env, timeout=60
    )
    assert (ended.returncode, [line for line in ended.stderr.splitlines() if unit.name in line]) == (0, [])


# --- AWS


def s3_calls() -> set[str]:
    """Every method of boto3's S3 client that is named anywhere in the broker: called, signed for or paged."""
    import boto3

    client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    known = set(client.meta.method_to_api_mapping)
    named: set[str] = set()
    for source in sorted((ROOT / "transfer" / "broker").glob("*.py")):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "s3":
                named.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                named.add(node.value)
    return named & known


def allowed() -> set[str]:
    policy = json.loads((DEPLOY / "iam-policy.json").read_text())
    return {
        action
        for statement in policy["Statement"]
        if statement["Effect"] == "Allow"
        for action in statement["Action"]
    }


def test_the_policy_allows_what_the_broker_calls_and_nothing_else() -> None:
    calls = s3_calls()
    assert {"head_bucket", "upload_part", "list_multipart_uploads", "put_object", "list_parts"} <= calls
    assert calls - WITHHELD == set(ACTIONS), "a call that the table above does not know, or one that is gone"
    assert allowed() == set(ACTIONS.values())
    assert "Make the bucket" in README


def test_the_policy_refuses_signatures_older_than_a_url_lives() -> None:
    policy = json.loads((DEPLOY / "iam-policy.json").read_text())
    [old] = [s for s in policy["Statement"] if s["Sid"] == "NoOldSignature"]
    assert old["Effect"] == "Deny"
    assert int(old["Condition"]["NumericGreaterThan"]["s3:signatureAge"]) == Settings.url_life * 1000


def test_the_policy_is_bound_to_the_bucket_and_its_objects_to_the_prefix() -> None:
    policy = json.loads((DEPLOY / "iam-policy.json").read_text())
    for statement in policy["Statement"]:
        resources = statement["Resource"]
        for resource in [resources] if isinstance(resources, str) else resources:
            assert resource.startswith("arn:aws:s3:::BUCKET")
    [objects] = [s for s in policy["Statement"] if s["Sid"] == "Objects"]
    assert objects["Resource"] == f"arn:aws:s3:::BUCKET/{Settings.prefix}*"


def test_the_lifecycle_rules_are_those_that_a_broker_installs() -> None:
    stated = json.loads((DEPLOY / "lifecycle.json").read_text())
    assert stated == {"Rules": lifecycle.rules(Settings.prefix, Settings.unfinished_life)}


def test_the_cors_rules_let_a_browser_send_what_is_signed() -> None:
    [rule] = json.loads((DEPLOY / "cors.json").read_text())["CORSRules"]
    assert set(rule["AllowedMethods"]) == {"GET", "PUT"}
    assert {"range", "x-amz-checksum-crc32c"} == set(rule["AllowedHeaders"])
    assert "ETag" in rule["ExposeHeaders"]
    assert "*" not in "".join(rule["AllowedOrigins"])


@pytest.mark.parametrize(
    ("name", "operation"),
    [("lifecycle.json", "PutBucketLifecycleConfiguration"), ("cors.json", "PutBucketCors")],
)
def test_boto3_takes_the_files_as_they_are(name: str, operation: str) -> None:
    import boto3
    from botocore.validate import ParamValidator

    client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    field = {"lifecycle.json": "LifecycleConfiguration", "cors.json": "CORSConfiguration"}[name]
    given = {"Bucket": "b", field: json.loads((DEPLOY / name).read_text())}
    shape = client.meta.service_model.operation_model(operation).input_shape
    assert not ParamValidator().validate(given, shape).has_errors()


# --- metrics


def shown() -> set[str]:
    """Names that a scrape shows, with those that belong to a histogram or counter. Scraped for real in test_metrics."""
    return names_in(Metrics("1").text().decode())


def names_in(scrape: str) -> set[str]:
    found = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", scrape, re.MULTILINE):
        found |= {f"{name}_{end}" for end in ("bucket", "count", "sum")} if kind == "histogram" else {name}
    return found


def used(text: str) -> set[str]:
    return set(re.findall(r"\bxfer_[a-z_]+\b", text)) - {"xfer_work", "xfer_dead"}


def expressions() -> dict[str, str]:
    """Every PromQL expression, by where it stands."""
    board = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in board["panels"]
        for target in panel["targets"]
    }
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text())
    return found | {rule["alert"]: rule["expr"] for group in rules["groups"] for rule in group["rules"]}


def test_dashboard_and_alerts_name_only_metrics_that_there_are() -> None:
    assert expressions()
    for where, expression in expressions().items():
        assert used(expression), where
        assert used(expression) <= shown(), where


def test_the_alerts_name_every_outcome_of_a_request_that_is_the_operators_trouble_and_none_that_is_none() -> (
    None
):
    told = re.findall(r'xfer_requests_total\{outcome=~?"([a-z_|]+)"', (DEPLOY / "alerts.yml").read_text())
    named = {ErrorCode(outcome) for outcomes in told for outcome in outcomes.split("|")}
    assert named == {ErrorCode.INTERNAL, ErrorCode.STORE, ErrorCode.CLOCK, ErrorCode.BUSY}


def test_every_metric_is_on_the_dashboard() -> None:
    board = used((DEPLOY / "grafana-dashboard.json").read_text())
    assert {name for name in shown() if not name.endswith(("_count", "_sum"))} <= board


def test_every_metric_is_in_the_readme_and_no_other() -> None:
    named = {name for row in table("## Metrics") for name in re.findall(r"`(xfer_[a-z_]+)", row[0])}
    assert named == {re.sub(r"_(bucket|count|sum)$", "", name) for name in shown()}


def test_every_alert_says_what_to_do() -> None:
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 8
    for rule in rules:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["action"]


def test_panels_do_not_overlap_and_have_numbers_of_their_own() -> None:
    panels = json.loads((DEPLOY / "grafana-dashboard.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)


def test_keda_scales_on_the_work_queues_consumer() -> None:
    scaled = yaml.safe_load((DEPLOY / "keda-scaledobject.yml").read_text())
    [trigger] = scaled["spec"]["triggers"]
    assert trigger["type"] == "nats-jetstream"
    assert (trigger["metadata"]["stream"], trigger["metadata"]["consumer"]) == ("xfer_work", "xfer_workers")
    assert all(isinstance(value, str) for value in trigger["metadata"].values())  # KEDA takes text only


# --- threats


@cache
def places() -> dict[str, set[str]]:
    """The files, below tests/, that each test stands in."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        for name in re.findall(
            r"^\s*(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE
        ):
            found.setdefault(name, set()).add(path.relative_to(ROOT / "tests").as_posix())
    return found


@pytest.mark.parametrize("row", table("## Threats"), ids=lambda row: f"{row[0]}: {row[1][:30]}")
def test_each_threat_names_tests_that_there_are(row: list[str]) -> None:
    assert len(row) == 3
    named = re.findall(r"`([^`]*)`", row[2])
    assert named, "no test shows it"
    known = places()
    for path, _, name in (one.partition("::") for one in named):
        assert path in known.get(name, ()), f"{name} stands in {known.get(name, 'no file')}"


def test_the_threat_table_speaks_of_every_party() -> None:
    parties = {row[0] for row in table("## Threats")}
    assert parties >= {
        "NATS operator",
        "broker operator",
        "S3 operator",
        "STUN and TURN operator",
        "user without the ticket",
        "whoever has the ticket",
        "member of a room",
        "who has no room's ticket",
        "sender",
        "receiver",
        "network attacker",
        "removed user",
        "colleague on the same host",
        "whoever reads logs",
    }


# --- the document


def test_every_file_of_the_folder_is_in_the_readme_and_the_reverse() -> None:
    there = {path.name for path in DEPLOY.iterdir()} - {"README.md"}
    linked = set(re.findall(r"\]\(([a-z-]+\.[a-z]+)\)", README))
    assert linked == there


def test_the_rules_of_the_readme_can_be_read_as_toml() -> None:
    [example] = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    assert {"admins", "quota"} == set(tomllib.loads(example))


def test_the_commands_of_the_readme_are_known() -> None:
    from cli.main import COMMANDS, GROUPS

    named = set(re.findall(r"`xfer ([a-z]+)", README))
    assert named
    assert named <= {*COMMANDS, *GROUPS}
