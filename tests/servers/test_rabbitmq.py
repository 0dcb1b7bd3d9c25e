"""RabbitMQ as the broker, the shared state in a Redis beside it."""

import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import amqp
import kombu
import pytest
from tests.command_line import run_trivet
from tests.foreign_calls import MARK, QUEUE, other_app, send_wrong_calls
from tests.processes import START_S, free_port
from tests.servers.rabbitmq import RabbitServer
from tests.servers.redis_servers import RedisServer
from tests.servers.running import UNHURRIED, log_of, requests
from tests.timing import until

from trivet.testing import RunningTrivet, running_trivet
from trivet_tasks.celery_app import make_app
from trivet_tasks.errors import BrokerUnavailable
from trivet_tasks.jobs import DispatchedJob
from trivet_tasks.latency import Latency
from trivet_tasks.messages import QUEUE_ARGUMENTS, Chunk, publish
from trivet_tasks.shared_state import connect

BROKEN_PROPERTIES: list[dict[str, Any]] = [
    {"content_type": b"\xff", "content_encoding": "utf-8"},
    {"content_type": "application/json", "content_encoding": b"\xff\xfe"},
    {"application_headers": {"task": b"\xff", "id": b"\xff"}, "correlation_id": b"\xff"},
    {"application_headers": {"compression": "application/x-bz2"}},
]
"""Properties that are no text, or announce what the body is not."""
pytestmark = [pytest.mark.timeout(400), pytest.mark.xdist_group("rabbitmq")]


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    with RabbitServer(tmp_path_factory.mktemp("rabbit")) as server:
        yield server


@pytest.fixture(scope="module")
def running(rabbit: RabbitServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTrivet]:
    folder = tmp_path_factory.mktemp("trivet")
    with (
        RedisServer(folder) as redis,
        running_trivet(
            folder, broker_url=rabbit.url, redis_url=redis.url, workers=1, sections=UNHURRIED, ready_s=START_S
        ) as trivet,
    ):
        yield trivet


def test_jobs_of_every_class_are_served(running: RunningTrivet) -> None:
    for latency in Latency:
        job = running.client.submit(**requests(1, f"one {latency}")[0], latency=latency.value)
        assert job.result(timeout=150).status == "succeeded"
    batch = running.client.submit_many(requests(300, "many"), latency="batch", name="many")
    assert {result.status for result in batch.results()} == {"succeeded"}


def test_celery_says_nothing_of_a_prefetch_setting_that_rabbitmq_does_not_have(running: RunningTrivet) -> None:
    for part in ("worker-1-bulk", "worker-1-realtime"):
        assert "prefetch" not in log_of(running, part)
        assert "Traceback" not in log_of(running, part)


def test_no_job_is_lost_and_none_called_twice_when_the_broker_is_killed_under_load(
    running: RunningTrivet, rabbit: RabbitServer
) -> None:
    done: list[str] = []
    batch = running.client.submit_many(requests(400, "killed"), latency="batch", name="killed")
    reader = threading.Thread(target=lambda: done.extend(result.status for result in batch.results()))
    reader.start()
    until(lambda: done, "the first job to end")
    rabbit.kill()
    until(lambda: "The broker" in log_of(running, "scheduler") or not reader.is_alive(), "the scheduler to say so")
    rabbit.start()
    reader.join(200)
    assert done == ["succeeded"] * 400
    # a pool thread that changes it would read from the connection beside the event loop
    assert "prefetch" not in log_of(running, "worker-1-bulk")
    assert (
        running.client.submit(**requests(1, "after")[0], latency="realtime").result(timeout=150).status == "succeeded"
    )


def test_a_worker_that_takes_no_work_leaves_the_messages_to_others(
    running: RunningTrivet, rabbit: RabbitServer
) -> None:
    """Its consumers are cancelled while its shared state is away, and begin again afterwards."""
    queue = "anthropic.batch"
    with kombu.Connection(rabbit.url) as connection:

        def consumers() -> int:
            return int(connection.default_channel.queue_declare(queue, passive=True).consumer_count)

        until(lambda: consumers() == 1, "the worker to consume")
        shared = connect(running.settings.redis_url)
        shared.config_set("maxmemory", "1")
        until(lambda: consumers() == 0, "nobody to consume")
        shared.config_set("maxmemory", "0")
        until(lambda: consumers() == 1, "it to consume again")


def test_wrong_calls_of_another_application_are_refused_and_nothing_stalls(
    running: RunningTrivet, rabbit: RabbitServer
) -> None:
    def refused() -> int:
        dropped = run_trivet("--config", running.settings.source, "routes", "--json").json["dropped"]
        return sum(one["times"] for one in dropped if one["kind"] == "unreadable")

    before, said = refused(), len(log_of(running, "worker-1-bulk"))
    app = other_app(rabbit.url)
    sent = send_wrong_calls(app)
    with kombu.Connection(rabbit.url) as connection:
        channel = connection.default_channel
        for properties in BROKEN_PROPERTIES:
            channel.basic_publish(amqp.Message(b"[]", **properties), "", QUEUE)
    sent += len(BROKEN_PROPERTIES)
    until(lambda: refused() >= before + sent, "all to be counted")
    assert running.client.submit(**requests(1, "after junk")[0]).result(timeout=150).status == "succeeded"
    assert refused() == before + sent
    app.close()
    log = log_of(running, "worker-1-bulk")[said:]
    assert "Traceback" not in log
    assert MARK not in log


def test_flower_reads_depths_without_the_management_plugin(running: RunningTrivet) -> None:
    port = free_port()
    running.local.start_part("flower", "flower", "--port", str(port), env={"FLOWER_UNAUTHENTICATED_API": "true"})
    running.local.wait_ready(START_S)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/broker", timeout=20) as answer:
        page = answer.read().decode()
    assert "anthropic.realtime" in page
    assert "alert-warning" not in page
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/queues/length", timeout=20) as answer:
        assert b'"name": "anthropic.batch", "messages": ' in answer.read()


def test_a_queue_is_durable_and_its_messages_are_not_written_to_disk(rabbit: RabbitServer, tmp_path: Path) -> None:
    app = make_app(_settings(tmp_path, rabbit.url))
    publish(app, [_chunk()])
    with kombu.Connection(rabbit.url) as connection:
        channel = connection.default_channel
        # raises PreconditionFailed where it was declared otherwise
        channel.queue_declare("quiet.batch", durable=True, auto_delete=False, arguments=dict(QUEUE_ARGUMENTS))
        message = channel.basic_get("quiet.batch", no_ack=True)
        assert message.properties["delivery_mode"] == 1
    app.close()


def test_a_connection_that_was_cut_while_idle_is_replaced_without_a_word(rabbit: RabbitServer, tmp_path: Path) -> None:
    app = make_app(_settings(tmp_path, rabbit.url))
    publish(app, [_chunk()])
    with app.producer_pool.acquire() as producer:
        producer.channel.connection.sock.shutdown(2)
    publish(app, [_chunk(), _chunk()])
    with app.connection_for_read() as connection:
        assert connection.default_channel.queue_declare("quiet.batch", passive=True).message_count >= 3
    app.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("guest:guest", "guest:wr0ng"), "refuses the user, the password or the permission (403)"),
        (("//", "/elsewhere"), "has no such virtual host"),
    ],
)
def test_a_refusal_is_named_and_holds_no_password(
    rabbit: RabbitServer, tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    before, _, after = rabbit.url.partition("://")
    url = f"{before}://{after.replace(*change)}"
    app = make_app(_settings(tmp_path, url))
    with pytest.raises(BrokerUnavailable) as refused:
        publish(app, [_chunk()])
    assert said in str(refused.value)
    assert "wr0ng" not in str(refused.value)
    app.close()


def _settings(folder: Path, url: str):  # type: ignore[no-untyped-def]
    from trivet_tasks.config.settings import load_settings

    path = folder / "trivet.toml"
    path.write_text(f'[broker]\nurl = "{url}"\n[redis]\nurl = "redis://127.0.0.1:1"\n', encoding="ascii")
    return load_settings(path)


def _chunk() -> Chunk:
    return Chunk("quiet", "anthropic", Latency.BATCH, "claude-sonnet-5-5", (DispatchedJob("id", 1, 10, 30),))
