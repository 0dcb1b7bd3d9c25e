"""One gateway for all of these tests; `gateway` gives it back clean for each."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.gateway_clients.running import RunningGateway, running_gateway

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """The gateway, started once. It has no SQL of its own, so one database is enough."""
    with running_gateway(tmp_path_factory.mktemp("gateway")) as served:
        yield served


@pytest.fixture
def gateway(served: RunningGateway) -> Iterator[RunningGateway]:
    """The gateway with every fault and reply taken back, before and after the test."""
    served.trivet.reset()
    yield served
    served.trivet.reset()


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one gateway stay in one process of xdist, so that it is started once."""
    for item in items:
        if item.path.parent == HERE:
            item.add_marker(pytest.mark.xdist_group("gateway-clients"))
