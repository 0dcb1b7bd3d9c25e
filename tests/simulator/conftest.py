"""One running simulator for all of these tests; `control` gives it back clean for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from trivet_simulator import Control, Endpoints, SimulatorProcess


@pytest.fixture(scope="session")
def simulator() -> Iterator[SimulatorProcess]:
    more = ("bedrock-eu=bedrock", "messages=messages", "mantle=mantle", "platform=platform")
    with SimulatorProcess(*(word for name in more for word in ("--extra", name))) as running:
        yield running


@pytest.fixture
def control(simulator: SimulatorProcess) -> Iterator[Control]:
    control = simulator.control
    control.reset()
    yield control
    control.reset()


@pytest.fixture
def endpoints(simulator: SimulatorProcess) -> Endpoints:
    return simulator.endpoints
