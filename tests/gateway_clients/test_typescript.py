"""The official TypeScript client, unmodified, against the gateway. npm installs the pinned version once per machine."""

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from tests.gateway_clients.running import RunningGateway

HERE = Path(__file__).parent / "typescript"
EXAMPLE = Path(__file__).parents[2] / "examples" / "gateway_client.mjs"
INSTALL_S = 150
RUN_S = 150
NODE, NPM = shutil.which("node"), shutil.which("npm")

pytestmark = pytest.mark.skipif(NODE is None or NPM is None, reason="node and npm are not on the PATH")


@pytest.fixture(scope="session")
def package() -> Path:
    """A folder with the client installed, kept between runs by the digest of `package.json`."""
    described = (HERE / "package.json").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "trivet-tests" / f"typescript-{hashlib.sha256(described).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock", timeout=INSTALL_S):
        if not (folder / "installed").exists():
            (folder / "package.json").write_bytes(described)
            command = [NPM or "", "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]
            done = subprocess.run(command, cwd=folder, timeout=INSTALL_S, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-2_000:]
            (folder / "installed").touch()
    return folder


@pytest.fixture
def folder(package: Path, tmp_path: Path) -> Iterator[Path]:
    """A folder of the test's own in which scripts find the client."""
    (tmp_path / "node_modules").symlink_to(package / "node_modules", target_is_directory=True)
    yield tmp_path
    (tmp_path / "node_modules").unlink()


def run(folder: Path, script: Path, env: dict[str, str]) -> str:
    """Run a script and return what it printed."""
    copied = folder / script.name
    copied.write_bytes(script.read_bytes())
    done = subprocess.run(
        [NODE or "", copied.name],
        cwd=folder,
        env={**os.environ, **env},
        timeout=RUN_S,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def model(request: Any) -> Any:
    """Call the tool where one is given and no result is there yet; else say yes."""
    last = request["messages"][-1]["content"]
    if request.get("tools") and not (isinstance(last, list) and last[0]["type"] == "tool_result"):
        call = {"type": "tool_use", "id": "toolu_01", "name": "get_weather", "input": {"city": "Oslo"}}
        return {"content": [call], "stop_reason": "tool_use"}
    return "Yes."


def test_the_client_runs_unmodified(gateway: RunningGateway, folder: Path) -> None:
    env = {
        "GATEWAY_URL": gateway.url,
        "GATEWAY_KEY": gateway.keys["free"],
        "GATEWAY_HAIKU_KEY": gateway.keys["haiku"],
        "GATEWAY_SLOW_KEY": gateway.keys["slow"],
    }
    with gateway.trivet.reply(model):
        passed = run(folder, HERE / "client.mjs", env).split()
    checks = re.findall(r"^  async (\w+)\(\) \{$", (HERE / "client.mjs").read_text(encoding="utf-8"), re.MULTILINE)
    assert passed == checks
    assert len(checks) > 10


def test_the_example_runs(gateway: RunningGateway, folder: Path) -> None:
    gateway.trivet.reply("Hello to you.")
    env = {"ANTHROPIC_BASE_URL": gateway.url, "ANTHROPIC_API_KEY": gateway.keys["free"]}
    counted, message, route, streamed = run(folder, EXAMPLE, env).splitlines()
    assert re.fullmatch(r"\d+ tokens", counted)
    assert message == streamed == "Hello to you."
    assert re.fullmatch(r"by [\w-]+ for \$\d+(\.\d+)?", route)
