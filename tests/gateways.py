"""A gateway for tests: `trivet serve` in processes of its own, over a Trivet that runs."""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx2
from tests.processes import ServerProcess, free_port

from trivet.admin import Admin
from trivet_tasks.config.settings import Settings

REQUEST = {"model": "claude-haiku-4-5", "max_tokens": 50, "messages": [{"role": "user", "content": "Say hello."}]}
"""A request of the Messages API."""


def serves(port: int) -> bool:
    """Return whether a gateway answers on a port of 127.0.0.1."""
    with contextlib.suppress(httpx2.HTTPError):
        return httpx2.get(f"http://127.0.0.1:{port}/healthz", timeout=5).status_code == 200
    return False


class RunningGateway:
    """A gateway that serves, with a key for it."""

    def __init__(self, server: ServerProcess, port: int, key: str) -> None:
        self.server = server
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.key = key

    def alive(self) -> bool:
        """Return whether it answers."""
        return serves(self.port)

    def client(self, **more: str) -> httpx2.Client:
        """Return a client with the key, and further headers."""
        headers = {"x-api-key": self.key, **more}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=60)


@contextlib.contextmanager
def running_gateway(
    settings: Settings, folder: Path, *options: str, env: Mapping[str, str] | None = None, key: str = "tests"
) -> Iterator[RunningGateway]:
    """Start a gateway with an admin key of its own, and stop it at the end.

    Args:
        folder: where its log is written.
        options: of `trivet serve`.
        env: variables, e.g. `TRIVET_GATEWAY__MAX_BODY_MB`.
        key: the name of its key.
    """
    port = free_port()
    command = [sys.executable, "-m", "trivet", "--config", str(settings.source), "serve", "--port", str(port), *options]
    server = ServerProcess(command, folder, env=env)
    with Admin(settings=settings) as admin:
        token = admin.keys.create(key, admin=True).token.text
        gateway = RunningGateway(server, port, token)
        try:
            server.start(gateway.alive)
            yield gateway
        finally:
            if server.runs:
                server.stop()
            admin.keys.revoke(key)
