"""Tests with real servers as Debian ships them: Redis with TLS, Sentinel, RabbitMQ, PgBouncer.

`packages.program(name)` installs what is missing and skips where it cannot; `processes.ServerProcess` runs it.
"""

import os

import pytest


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep this machine's `TRIVET_*` variables out of the tests."""
    for name in [name for name in os.environ if name.startswith("TRIVET_")]:
        monkeypatch.delenv(name)
