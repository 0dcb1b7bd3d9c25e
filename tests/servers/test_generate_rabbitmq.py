"""`generate` in an application whose broker is RabbitMQ, with queues that only their owner can declare."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import chain, group
from tests.celery_shop.running import Shop
from tests.processes import START_S
from tests.servers.rabbitmq import RabbitServer
from tests.servers.running import UNHURRIED

from trivet.testing import RunningTrivet, running_trivet

pytestmark = [pytest.mark.timeout(400), pytest.mark.xdist_group("rabbitmq")]
WAIT_S = 150.0


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """A shop whose queues are quorum queues: whoever declares them as others is refused."""
    with RabbitServer(tmp_path / "rabbit") as rabbit:
        shop = Shop(tmp_path / "shop", broker_url=rabbit.url, queue_type="quorum")
        with shop.running():
            yield shop


@pytest.fixture
def trivet(shop: Shop, tmp_path: Path) -> Iterator[RunningTrivet]:
    """A Trivet that knows the shop, with a broker of its own."""
    sections = {**UNHURRIED, "celery_apps.shop": {"broker_url": shop.broker_url}}
    with running_trivet(tmp_path / "trivet", sections=sections, ready_s=START_S) as trivet:
        shop.start(trivet.settings.source)
        yield trivet


def test_chains_go_on_through_the_queues_of_the_application(shop: Shop, trivet: RunningTrivet) -> None:
    tasks = shop.module()
    steps = [
        chain(tasks.load.s(n), tasks.generate.s(prompt="{0}", **tasks.TERMS), tasks.save.s(f"rabbit-{n}"))
        for n in range(10)
    ]
    assert group(steps).delay().get(timeout=WAIT_S) == [f"rabbit-{n}" for n in range(10)]
    assert [len(shop.lines(f"rabbit-{n}")) for n in range(10)] == [1] * 10
    assert "PRECONDITION_FAILED" not in shop.log + trivet.local.log_path("scheduler").read_text(encoding="utf-8")
    tasks.app.close()
