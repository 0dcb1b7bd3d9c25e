"""Real servers as people run them: what Debian packages give, before and beside those of the other tests."""

from pathlib import Path

import pytest
from tests.servers.databases import pgbouncer, slow_machine

__all__ = ["pgbouncer", "slow_machine"]

HERE = Path(__file__).parent
TIMEOUT_S = 600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole systems start here, and the machine may be busy."""
    for item in items:
        if item.path.parent == HERE:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))
