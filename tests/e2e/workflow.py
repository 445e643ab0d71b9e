"""Enough of GitHub Actions to run scripts/examples/github-actions.yml as it stands: what it does not use is an error here."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

SHELL = ("bash", "--noprofile", "--norc", "-eo", "pipefail")
"""Of a step with `shell: bash`. Source: Workflow syntax for GitHub Actions, jobs.<job_id>.steps[*].shell."""
CHECKOUT = "actions/checkout@v4"
_TOP = {"name", "on", "permissions", "defaults", "env", "jobs"}
_JOB = {"needs", "if", "runs-on", "timeout-minutes", "outputs", "env", "steps"}
_STEP = {"name", "id", "if", "uses", "env", "run"}


@dataclass
class Ended:
    """A job. said: of all its steps. summary: what it wrote for the run's page."""

    result: str
    outputs: dict[str, str] = field(default_factory=dict)
    said: str = ""
    summary: str = ""


class Run:
    """One run of a workflow. Each job has a machine of its own: a home, a checkout, a folder for what is temporary."""

    def __init__(
        self,
        workflow: Path,
        folder: Path,
        number: int,
        *,
        env: Mapping[str, str],
        checkout: Path,
        secrets: Mapping[str, str],
        variables: Mapping[str, str],
    ) -> None:
        """env: of the machines. variables: of the repository."""
        text = yaml.safe_load(workflow.read_text(encoding="utf-8"))
        text["on"] = text.pop(True)  # YAML 1.1
        assert set(text) <= _TOP
        assert text["defaults"] == {"run": {"shell": "bash"}}
        self.jobs: dict[str, Any] = text["jobs"]
        self.attempt = 1
        self.ended: dict[str, Ended] = {}
        self._env = {**env, **text["env"]}
        self._folder, self._number, self._checkout = folder, number, checkout
        self._secrets, self._variables = secrets, variables

    def job(self, name: str, *, lost_after: str = "") -> Ended:
        """Those that it needs have ended. lost_after: the step's id with which its machine is lost."""
        job = self.jobs[name]
        assert set(job) <= _JOB, name
        above = self._above(name)
        failed = any(self.ended[each].result == "failure" for each in above)
        well = all(self.ended[each].result == "success" for each in above)
        known = {f"needs.{_needed(job)}.outputs.{key}": "" for key in self._promised(_needed(job))}
        for each in above[:1]:
            known |= {f"needs.{each}.outputs.{key}": value for key, value in self.ended[each].outputs.items()}
        if not self._holds(job.get("if"), known, failed=failed, well=well):
            self.ended[name] = Ended("skipped")
            return self.ended[name]
        self.ended[name] = _Machine(self, name, job, known).work(lost_after)
        return self.ended[name]

    def _promised(self, name: str) -> list[str]:
        return list(self.jobs[name].get("outputs", {})) if name else []

    def _above(self, name: str) -> list[str]:
        """What it needs, and what that needs."""
        needed = _needed(self.jobs[name])
        return [needed, *self._above(needed)] if needed else []

    def _holds(self, condition: str | None, known: Mapping[str, str], *, failed: bool, well: bool) -> bool:
        """Without one of the functions it is also asked that all went well."""
        if condition is None:
            return well
        held = {"failure()": failed, "always()": True}
        terms = condition.split(" && ")
        assert terms[0] in held, condition
        return all(held[term] if term in held else _is_not_empty(term, known) for term in terms)

    def resolve(self, text: object, known: Mapping[str, str]) -> str:
        """Every expression in it is one that is known."""
        values = {
            "github.run_id": str(self._number),
            "github.run_attempt": str(self.attempt),
            **{f"secrets.{name}": value for name, value in self._secrets.items()},
            **{f"vars.{name}": value for name, value in self._variables.items()},
            **known,
        }
        assert isinstance(text, str)
        resolved = re.sub(r"\$\{\{ ([\w.-]+) \}\}", lambda found: values[found[1]], text)
        assert "${{" not in resolved, text
        return resolved

    @property
    def env(self) -> dict[str, str]:
        return {
            **self._env,
            "CI": "true",
            "GITHUB_RUN_ID": str(self._number),
            "GITHUB_RUN_ATTEMPT": str(self.attempt),
        }

    def machine(self, name: str) -> Path:
        folder = self._folder / f"{self._number}-{name}-{self.attempt}"
        shutil.copytree(self._checkout, folder / "work")
        (folder / "temp").mkdir()
        return folder

    def leaks(self, text: str) -> bool:
        return any(secret in text for secret in self._secrets.values())


class _Machine:
    def __init__(self, run: Run, name: str, job: Mapping[str, Any], known: dict[str, str]) -> None:
        self._run, self._job, self._known = run, job, known
        self._folder = run.machine(name)
        self._ended = Ended("success")

    def work(self, lost_after: str) -> Ended:
        steps = self._job["steps"]
        for step in steps:  # an output that was not written is empty
            assert set(step) <= _STEP
            for name in re.findall(rf"steps\.{step.get('id', '-')}\.outputs\.(\w+)", str(self._job)):
                self._known[f"steps.{step['id']}.outputs.{name}"] = ""
        for number, step in enumerate(steps):
            failed = self._ended.result == "failure"
            if self._run._holds(step.get("if"), self._known, failed=failed, well=not failed):
                self._step(number, step)
            if lost_after and step.get("id") == lost_after:
                return Ended("failure", said=self._ended.said)
        for name, text in self._job.get("outputs", {}).items():
            value = self._run.resolve(text, self._known)
            assert not self._run.leaks(value), "GitHub drops an output with a secret in it"
            self._ended.outputs[name] = value
        return self._ended

    def _step(self, number: int, step: Mapping[str, Any]) -> None:
        if "uses" in step:
            assert step["uses"] == CHECKOUT, "its stand-in is the folder that is there already"
            return
        output, summary = self._folder / f"output-{number}", self._folder / f"summary-{number}"
        output.touch()
        given = {**self._job.get("env", {}), **step.get("env", {})}
        env = {
            **self._run.env,
            "HOME": str(self._folder),
            "RUNNER_TEMP": str(self._folder / "temp"),
            "GITHUB_OUTPUT": str(output),
            "GITHUB_STEP_SUMMARY": str(summary),
            **{name: self._run.resolve(text, self._known) for name, text in given.items()},
        }
        script = self._folder / f"step-{number}.sh"
        script.write_text(self._run.resolve(step["run"], {}))
        ended = subprocess.run(
            [*SHELL, str(script)],
            env=env,
            cwd=self._folder / "work",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=100,
        )
        self._ended.said += ended.stdout
        if summary.exists():
            self._ended.summary += summary.read_text()
        for line in output.read_text().splitlines():
            name, _, value = line.partition("=")
            self._known[f"steps.{step['id']}.outputs.{name}"] = value
        if ended.returncode:
            self._ended.result = "failure"


def _needed(job: Mapping[str, Any]) -> str:
    needed = job.get("needs", "")
    assert isinstance(needed, str), "one is enough here"
    return needed


def _is_not_empty(term: str, known: Mapping[str, str]) -> bool:
    found = re.fullmatch(r"([\w.-]+) != ''", term)
    assert found, term
    return known[found[1]] != ""
