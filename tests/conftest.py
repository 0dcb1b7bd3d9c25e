"""Fixtures of all tests: the same surroundings on every machine, and databases for those that ask for one."""

from tests import surroundings

surroundings.settle()  # before any other module of the suite or of the product is imported

import os  # noqa: E402 - see above
import signal  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

# how fast a machine draws examples says nothing of the product
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

pytest_plugins = ["tests.postgres", "tests.databases"]


def _state() -> dict[str, object]:
    """Return what a test may change for others, by name."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    handlers = {number.name: signal.getsignal(number) for number in (*surroundings.SIGNALS, signal.SIGCHLD)}
    return {"the working directory": str(Path.cwd()), **variables, **handlers}


@pytest.fixture(autouse=True)
def unchanged() -> Iterator[None]:
    """Fail a test that leaves variables, the working directory or signal handlers changed for the next one."""
    before = _state()
    yield
    after = _state()
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    assert not changed, f"the test leaves this changed: {', '.join(changed)}"
