"""A gateway in a process of its own, over real workers and the simulator, as clients meet it."""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
from tests.processes import ServerProcess, free_port, listens

from trivet.testing import QUICK, RunningTrivet, running_trivet

MODEL = "claude-haiku-4-5"
MAX_BODY_MB = 1
KEYS: Mapping[str, Mapping[str, Any]] = {
    "free": {},
    "haiku": {"models": ["claude-haiku-*"]},
    "nightly": {"classes": ["batch"]},
    "european": {"residency": ["eu"]},
    "slow": {"requests_per_minute": 1},
}
"""Keys of the gateway by name, with what they fix."""


@dataclass(frozen=True)
class RunningGateway:
    """A gateway, the Trivet behind it, and keys of it by name."""

    trivet: RunningTrivet
    url: str
    keys: Mapping[str, str]

    def client(self, key: str = "free", **options: Any) -> anthropic.Anthropic:
        """Return the official client with one of the keys; it tries once."""
        return anthropic.Anthropic(**self._options(key, options))

    def async_client(self, key: str = "free", **options: Any) -> anthropic.AsyncAnthropic:
        """Return the official async client, likewise."""
        return anthropic.AsyncAnthropic(**self._options(key, options))

    def _options(self, key: str, options: Mapping[str, Any]) -> dict[str, Any]:
        usual = {"max_retries": 0, "timeout": 60.0, "base_url": self.url, "api_key": self.keys.get(key, key)}
        return {**usual, **options}


@contextlib.contextmanager
def running_gateway(folder: Path) -> Iterator[RunningGateway]:
    """Start a Trivet and its gateway; stop both at the end."""
    sections = {**QUICK, "gateway": {"max_body_mb": MAX_BODY_MB}}
    with running_trivet(folder / "trivet", sections=sections) as trivet:
        port = free_port()
        config = str(trivet.settings.source)
        command = [sys.executable, "-m", "trivet", "--config", config, "serve", "--port", str(port)]
        server = ServerProcess(command, folder)
        server.start(lambda: listens(port))
        try:
            keys = {name: trivet.admin.keys.create(name, **terms).token.text for name, terms in KEYS.items()}
            yield RunningGateway(trivet, f"http://127.0.0.1:{port}", keys)
        finally:
            server.stop()
