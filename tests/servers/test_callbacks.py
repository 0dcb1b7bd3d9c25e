"""Callbacks over RabbitMQ: to a queue as the user's application declares it, confirmed, and sent again after a restart."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu import Exchange, Queue
from tests.databases import migrated
from tests.servers.rabbitmq import RabbitServer
from tests.store.world import World, spec
from tests.timing import until

from trivet_scheduler.delivering import Callbacks
from trivet_store.database.engine import Store
from trivet_store.jobs import deliveries
from trivet_tasks.callbacks import Callback
from trivet_tasks.config.settings import Settings
from trivet_tasks.signatures import read_callback

WAIT_S = 120.0


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    with RabbitServer(tmp_path_factory.mktemp("rabbit")) as server:
        yield server


@pytest.fixture
def shop(rabbit: RabbitServer) -> Iterator[Celery]:
    """An application whose queue has arguments: RabbitMQ refuses whoever declares it without them."""
    with Celery("shop", broker=rabbit.url, set_as_current=False) as app:
        letters = Exchange("letters", type="topic")
        app.conf.task_queues = [Queue("mail", letters, "mail.#", max_priority=9, durable=True)]
        app.conf.task_routes = {"shop.mail": {"queue": "mail", "routing_key": "mail.out"}}
        with app.connection_for_write() as connection:
            app.conf.task_queues[0](connection.default_channel).declare()
        yield app


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    url = f"sqlite:///{tmp_path}/trivet.db"
    migrated(url)
    store = Store(url)
    yield World(store)
    store.close()


@contextlib.contextmanager
def sending(world: World, url: str) -> Iterator[None]:
    """A scheduler's part that sends callbacks to the application."""
    apps: dict[str, Any] = {"shop": {"broker_url": url}}
    callbacks = Callbacks(world.store)
    callbacks.reload(Settings(celery_apps=apps))
    yield
    callbacks.close()
    until(lambda: not any(one.name.startswith("trivet-callbacks") for one in threading.enumerate()), "its end", WAIT_S)


def ended(world: World, words: str, callback: Callback) -> str:
    """Add a job with a callback and end it."""
    (accepted,) = world.add(spec(words))
    with world.store.write() as connection:
        deliveries.add(world.store, connection, callback, job_id=accepted.id)
    lease = world.lease()
    world.end(lease, world.take(lease, world.dispatch()))
    return accepted.id


def received(shop: Celery, queue: Queue | str, count: int) -> list[Any]:
    """Take so many messages from a queue of the application; their first arguments."""
    found: list[Any] = []
    with shop.connection_for_read() as connection:
        simple = connection.SimpleQueue(queue)
        for _ in range(count):
            message = simple.get(timeout=WAIT_S)
            found.append(message.payload[0])
            message.ack()
        simple.close()
    return found


def on_their_way(world: World) -> list[deliveries.AppDeliveries]:
    with world.store.read() as connection:
        return deliveries.on_their_way(connection)


def test_it_goes_to_the_queue_as_the_application_declares_it(world: World, shop: Celery, rabbit: RabbitServer) -> None:
    job_id = ended(world, "one", read_callback(shop.signature("shop.mail", args=["doc/1"])))
    with sending(world, rabbit.url):
        ((notice, document),) = received(shop, shop.conf.task_queues[0], 1)
        until(lambda: not on_their_way(world), "it to be marked", WAIT_S)
    assert (notice["job"], document) == (job_id, "doc/1")


def test_a_message_that_is_refused_does_not_hold_up_the_others(
    world: World, shop: Celery, rabbit: RabbitServer
) -> None:
    with shop.connection_for_write() as connection:
        Queue("strict", max_priority=9)(connection.default_channel).declare()
    refused = {"task": "shop.mail", "options": {"queue": "strict"}}
    ended(world, "refused", Callback("mail", "shop", refused))
    good = [ended(world, words, Callback("save", "shop", {"task": "shop.save"})) for words in ("two", "three")]
    with sending(world, rabbit.url):
        found = received(shop, "celery", 2)
        (state,) = until(lambda: on_their_way(world), "the rest", WAIT_S, fits=lambda rest: rest[0].due == 1)
    assert sorted(notice["job"] for (notice,) in found) == sorted(good)
    assert state.error is not None
    assert "PRECONDITION_FAILED - inequivalent arg 'x-max-priority' for queue 'strict'" in state.error
    assert "Give its queue the arguments that it had at the submit." in state.error


def test_a_broker_that_was_killed_gets_them_after_its_restart(world: World, shop: Celery, rabbit: RabbitServer) -> None:
    callback = Callback("save", "shop", {"task": "shop.save"})
    with sending(world, rabbit.url):
        ended(world, "before", callback)
        received(shop, "celery", 1)
        until(lambda: not on_their_way(world), "it to be marked", WAIT_S)
        rabbit.kill()
        job_id = ended(world, "after", callback)
        until(lambda: on_their_way(world), "the outage", WAIT_S, fits=lambda found: found[0].failing_since)
        rabbit.start()
        # RabbitMQ delivers what it did not hear to be acknowledged before it was killed once more
        until(lambda: received(shop, "celery", 1)[0][0]["job"], "the callback", WAIT_S, fits=lambda job: job == job_id)
        until(lambda: not on_their_way(world), "it to be marked", WAIT_S)
