"""A pytest plugin that fails a test which leaves its process changed for the next one."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.surroundings import SIGNALS


def _state() -> dict[str, object]:
    """Return what a test may change for others, by name."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    handlers = {number.name: signal.getsignal(number) for number in (*SIGNALS, signal.SIGCHLD)}
    return {"the working directory": str(Path.cwd()), **variables, **handlers}


@pytest.fixture(autouse=True)
def unchanged() -> Iterator[None]:
    """Compare variables, the working directory and signal handlers before and after a test."""
    before = _state()
    yield
    after = _state()
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    assert not changed, f"the test leaves this changed: {', '.join(changed)}"
