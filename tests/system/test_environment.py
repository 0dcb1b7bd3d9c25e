"""With every variable that a library follows set to a hostile value, `trivet up --simulate` sends nothing there."""

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.processes import free_port

START_S = 300.0
KEYS = {
    "ANTHROPIC_API_KEY": "sk-ant-very-secret",
    "AWS_SECRET_ACCESS_KEY": "aws-very-secret",
    "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
}


class Listener:
    """Takes every connection on a port of 127.0.0.1 and remembers what it was sent first."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._ending, self._ends = socket.socketpair()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ends.send(b"x")
        self._thread.join()
        for held in (self._socket, self._ending, self._ends):
            held.close()

    def _run(self) -> None:
        while True:
            ready, _, _ = select.select([self._socket, self._ending], [], [])
            if self._ending in ready:
                return
            with self._socket.accept()[0] as connection:
                connection.settimeout(1.0)
                with contextlib.suppress(OSError):
                    self.heard.append(connection.recv(2_000))
                    continue
                self.heard.append(b"")


@pytest.fixture
def listener() -> Iterator[Listener]:
    held = Listener()
    yield held
    held.close()


def hostile(port: int, folder: Path) -> dict[str, str]:
    """Every variable of the issue, and of the libraries' sources, leading to this port."""
    http, redis = f"http://127.0.0.1:{port}", f"redis://127.0.0.1:{port}/0"
    module = folder / "evil_configuration.py"
    module.write_text(f"broker_read_url = broker_write_url = broker_url = {redis!r}\n")
    bases = (
        "ANTHROPIC_BASE_URL", "ANTHROPIC_BEDROCK_BASE_URL", "ANTHROPIC_VERTEX_BASE_URL", "ANTHROPIC_FOUNDRY_BASE_URL",
        "ANTHROPIC_BEDROCK_MANTLE_BASE_URL", "ANTHROPIC_GOOGLE_CLOUD_BASE_URL", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_STS",
        "AWS_ENDPOINT_URL_BEDROCK", "AWS_ENDPOINT_URL_BEDROCK_RUNTIME", "AWS_EC2_METADATA_SERVICE_ENDPOINT",
        "FLOWER_BROKER_API",
    )  # fmt: skip
    brokers = ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL", "CELERY_RESULT_BACKEND")
    return {
        **dict.fromkeys(bases, http),
        **dict.fromkeys(brokers, redis),
        "ANTHROPIC_CUSTOM_HEADERS": "X-Api-Key: evil",
        "ANTHROPIC_LOG": "debug",
        "CELERY_CONFIG_MODULE": "evil_configuration",
        "CELERY_LOADER": "evil_configuration:Loader",
        "CELERY_CUSTOM_WORKER_POOL": "evil_configuration:Pool",
        "KOMBU_LOG_DEBUG": "1",
        "DJANGO_SETTINGS_MODULE": "evil_configuration",
        "GCE_METADATA_HOST": f"127.0.0.1:{port}",
        "GCE_METADATA_IP": f"127.0.0.1:{port}",
        "AWS_CSM_ENABLED": "true",
        "AWS_CSM_PORT": str(port),
        "PGHOST": "127.0.0.1",
        "PGHOSTADDR": "127.0.0.1",
        "PGPORT": str(port),
        "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]),
    }


def test_a_hostile_environment_hears_nothing(tmp_path: Path, listener: Listener) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRIVET_")}
    environment |= hostile(listener.port, tmp_path) | KEYS
    flower_port = free_port()
    trivet = [sys.executable, "-m", "trivet"]
    with (tmp_path / "stderr").open("wb") as errors:
        up = subprocess.Popen(
            [*trivet, "up", "--simulate", "--json", "--workers", "1", "--flower", "--flower-port", str(flower_port)],
            cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True,
        )  # fmt: skip
    assert up.stdout is not None
    try:
        line = up.stdout.readline()
        assert line, (tmp_path / "stderr").read_text()
        said = json.loads(line)
        for latency in ("batch", "realtime"):
            done = subprocess.run(
                [
                    *trivet, "submit", "A very secret prompt.", "--model", "claude-haiku-4-5", "--latency", latency,
                    "--deadline", "120", "--wait",
                ],
                cwd=folder, env=environment, capture_output=True, text=True, timeout=START_S, check=False,
            )  # fmt: skip
            assert "Traceback" not in done.stderr
            assert latency == "realtime" or done.returncode == 0, done.stderr
        for name, pid in said["processes"].items():
            held = psutil.Process(pid).environ()
            secrets = [key for key in KEYS if key in held]
            assert bool(secrets) == name.startswith("worker"), (name, secrets)
        logs = "".join(path.read_text(errors="replace") for path in (folder / ".trivet" / "logs").glob("*.log"))
        assert "very secret" not in logs
        assert "DEBUG" not in logs
    finally:
        up.terminate()
        up.wait(60)
        up.stdout.close()
    assert listener.heard == []


def test_config_check_names_what_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "trivet.toml").write_text('[routes.ours]\nprovider = "bedrock"\nregion = "us-east-1"\n')
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRIVET_")}
    environment |= {
        "ANTHROPIC_BEDROCK_BASE_URL": "http://evil.example",
        "CELERY_BROKER_URL": "redis://evil.example",
        "HTTPS_PROXY": "http://me:s3cret@proxy.example:3128",
        "COLUMNS": "200",
    }
    command = [sys.executable, "-m", "trivet", "config", "check"]

    def check(**more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=tmp_path, env=environment | more, capture_output=True, text=True, timeout=120, check=False
        )

    done = check()
    assert done.returncode == 0, done.stderr
    for words in ("ANTHROPIC_BEDROCK_BASE_URL", "CELERY_BROKER_URL", "bedrock-runtime.us-east-1.amazonaws.com"):
        assert words in done.stdout
    assert "http://me:***@proxy.example:3128 (HTTPS_PROXY)" in done.stdout
    assert "evil.example" not in done.stdout
    for variable, value in (
        ("HTTPS_PROXY", "socks://proxy:1"),
        ("SSL_CERT_FILE", "/gone"),
        ("PYTHONIOENCODING", "ascii"),
    ):
        broken = check(**{variable: value})
        assert broken.returncode == 2, (variable, broken.stderr)
        assert variable in broken.stderr
        assert "Traceback" not in broken.stderr
        assert len(broken.stderr.splitlines()) == 1
