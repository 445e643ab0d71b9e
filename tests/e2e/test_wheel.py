"""The wheel holds `cli` and `transfer` alone, says what it needs, is typed, and works where there is no checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NAMES = ("python3.15", "python3.14", "python3.13", "python3.12")
pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def ran(*command: str | Path, cwd: Path, **env: str) -> str:
    """Its stdout; it must end well."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run(
        command, cwd=cwd, env=kept | env, capture_output=True, text=True, timeout=500, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the checkout: building leaves folders behind."""
    tmp = tmp_path_factory.mktemp("wheel")
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("cli", "transfer", "scripts", "tests"):
        shutil.copytree(ROOT / name, tmp / "copy" / name, ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "constraints.txt"):
        shutil.copy(ROOT / name, tmp / "copy")
    (tmp / "copy" / "clients").mkdir()
    (tmp / "copy" / "clients" / "__init__.py").touch()  # what only begins like ours stays out
    ran(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp, tmp / "copy", cwd=tmp)
    [found] = tmp.glob("*.whl")
    return found


def test_the_wheel_holds_our_two_packages_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert wheel.name == f"xfer-{PROJECT['version']}-py3-none-any.whl"
    info = f"xfer-{PROJECT['version']}.dist-info"
    assert {name.split("/")[0] for name in names} == {"cli", "transfer", info}
    ours = {name for name in names if not name.startswith(info)}
    modules = {
        path.relative_to(ROOT).as_posix() for p in ("cli", "transfer") for path in (ROOT / p).rglob("*.py")
    }
    # Documents stay in the repository: what is installed is what runs.
    assert ours == modules | {"cli/py.typed", "transfer/py.typed"}
    assert f"{info}/licenses/LICENSE" in names


def test_its_metadata_says_what_the_project_says(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith("/METADATA")]
        said = Parser().parsestr(archive.read(name).decode())
        [name] = [name for name in archive.namelist() if name.endswith("/entry_points.txt")]
        assert archive.read(name).decode().split() == ["[console_scripts]", "xfer", "=", "cli.main:main"]
    assert (said["Name"], said["Version"]) == ("xfer", PROJECT["version"])
    assert said["Requires-Python"] == PROJECT["requires-python"] == ">=3.11"
    assert said["License-Expression"] == "MIT"
    assert said["Description-Content-Type"] == "text/markdown"
    assert str(said.get_payload()).startswith("# xfer\n")
    needs = [Requirement(line) for line in said.get_all("Requires-Dist") or []]
    plain = {str(need) for need in needs if need.marker is None}
    assert plain == {str(Requirement(line)) for line in PROJECT["dependencies"]}
    assert said.get_all("Provides-Extra") == list(PROJECT["optional-dependencies"])


def newest() -> str | None:
    """A newer Python than this one, the newest that runs here."""
    for name in NAMES:
        if (path := shutil.which(name)) and name > f"python3.{sys.version_info.minor}":
            run = subprocess.run([path, "-m", "venv", "--help"], capture_output=True, check=False)
            if run.returncode == 0:
                return path
    return None


def environment(folder: Path, python: str, wheel: str | Path, *pip: str | Path) -> Path:
    """The Python of an environment in `folder` with the wheel, made by pip as `pip` says."""
    ran(python, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    inside = folder / "bin" / "python"
    ran(sys.executable, "-m", "pip", "--python", inside, "install", "--quiet", *pip, wheel, cwd=folder.parent)
    return inside


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, and beside it what the gate has installed of others: not the checkout."""
    folder = tmp_path_factory.mktemp("installed") / "env"
    inside = environment(folder, sys.executable, wheel, "--no-deps")
    [site] = folder.glob("lib/python3.*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("platlib") + "\n")
    return inside


def test_it_passes_the_demo_where_there_is_no_checkout(installed: Path, tmp_path: Path) -> None:
    demo(installed, tmp_path)


def test_it_installs_with_what_it_needs_on_a_newer_python_and_passes_the_demo(
    wheel: Path, tmp_path: Path
) -> None:
    python = newest()
    if python is None:
        pytest.skip("there is no newer Python here")
    pins = ("--constraint", ROOT / "constraints.txt")
    demo(environment(tmp_path / "env", python, f"{wheel}[local]", *pins), tmp_path)
    shutil.rmtree(tmp_path / "env")  # 200 MB


def demo(installed: Path, cwd: Path) -> None:
    said = ran(installed.with_name("xfer"), "--version", cwd=cwd)
    assert said.startswith(f"xfer {PROJECT['version']} (Python 3.")
    where = ran(installed, "-P", "-c", "import cli; print(cli.__file__)", cwd=cwd)
    assert where.startswith(str(installed.parents[1]))
    path = f"{installed.parent}{os.pathsep}{os.environ['PATH']}"
    shown = ran(installed, ROOT / "scripts" / "_demo.py", cwd=cwd, PATH=path).splitlines()
    small, large = shown[1:3]
    assert "fetched by webrtc" in small
    assert "fetched by s3" in large
    assert small.endswith("bytes identical")
    assert large.endswith("bytes identical")


def test_who_imports_it_has_its_types(installed: Path, tmp_path: Path) -> None:
    code = 'import transfer\n\nasync def main() -> int:\n    return await transfer.send(["a"])\n'
    (tmp_path / "mine.py").write_text(code)
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(installed), "mine.py"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert run.stdout.startswith('mine.py:4: error: Incompatible return value type (got "Summary"'), (
        run.stdout
    )
    assert "Found 1 error" in run.stdout
