"""Tests with real servers as Debian ships them: Redis with TLS, Sentinel, RabbitMQ, PgBouncer.

`packages.program(name)` installs what is missing and skips where it cannot; `processes.ServerProcess` runs it.
"""

from pathlib import Path

import pytest
from tests.servers.databases import pgbouncer

__all__ = ["pgbouncer"]

HERE = Path(__file__).parent
TIMEOUT_S = 600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole systems start here, and the machine may be busy."""
    for item in items:
        if item.path.parent == HERE:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))
