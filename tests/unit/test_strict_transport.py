"""Elements of a queue that are none of ours, as a worker's connection reads them: each is dropped, and the next is read."""

import contextlib
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import amqp
import pytest
import redis
from kombu import Connection, Consumer, Queue
from kombu.transport.redis import SentinelChannel
from kombu.transport.redis import Transport as RedisTransport

from trivet.local.embedded import EmbeddedValkey
from trivet_tasks.config.server_urls import celery_url, redis_url
from trivet_tasks.shared_state import connect
from trivet_worker.process.strict_transport import strict_connection

QUEUE = Queue("jobs", no_declare=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("strict") / ".trivet"
    with EmbeddedValkey(folder):
        yield folder


@pytest.fixture
def shared(folder: Path) -> Iterator[redis.Redis]:
    client = connect(redis_url(folder))
    client.flushdb()
    yield client
    client.close()


@pytest.fixture
def dropped() -> list[str]:
    return []


@pytest.fixture
def connection(folder: Path, dropped: list[str]) -> Iterator[Connection]:
    kind = strict_connection(Connection, lambda queue, why: dropped.append(f"{queue}: {why}"))
    with kind(celery_url(folder)) as connection:
        yield connection


def read(connection: Connection, until: Callable[[], bool]) -> list[Any]:
    """The bodies of messages that come until it is so."""
    bodies: list[Any] = []

    def keep(body: Any, message: Any) -> None:
        bodies.append(body)
        message.ack()

    with Consumer(connection, [QUEUE], callbacks=[keep]):
        for _ in range(1_000):
            if until():
                break
            with contextlib.suppress(TimeoutError):
                connection.drain_events(timeout=1)
    assert until()
    return bodies


def test_true_messages_are_read_between_others(connection: Connection, shared: redis.Redis, dropped: list[str]) -> None:
    producer = connection.Producer()
    junk = [b"\xff", b"{", b"[]", b"{}", b'{"properties": {}, "headers": {}, "body": ""}', b"[" * 100_000]
    for number, element in enumerate(junk):
        producer.publish({"number": number}, routing_key="jobs", serializer="json")
        shared.lpush("jobs", element)
    bodies = read(connection, lambda: shared.llen("jobs") == 0)
    assert [body["number"] for body in bodies] == list(range(len(junk)))
    assert len(dropped) == len(junk)
    assert shared.hlen("unacked") == 0, "nothing is left that would be tried again"


def test_an_error_of_the_consumer_is_not_taken_for_an_unreadable_message(
    connection: Connection, shared: redis.Redis, dropped: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The error is reported as a fault, its message is not tried for ever, and the next is read."""
    producer, handled = connection.Producer(), []

    def handle(body: Any, message: Any) -> None:
        handled.append(body["number"])
        if body["number"] == 0:
            raise KeyError("of our own")
        message.ack()

    for number in range(2):
        producer.publish({"number": number}, routing_key="jobs", serializer="json")
    with Consumer(connection, [QUEUE], callbacks=[handle]):
        while len(handled) < 2:
            connection.drain_events(timeout=10)
    assert (handled, dropped, shared.hlen("unacked")) == ([0, 1], [], 0)
    (said,) = [record.getMessage() for record in caplog.records if record.name == "trivet.worker"]
    assert said.startswith("a message was read and not handled, by a fault of Trivet's own: KeyError")


def test_what_cannot_be_put_back_is_forgotten(connection: Connection, shared: redis.Redis, dropped: list[str]) -> None:
    left = {"one": b"\xff", "two": b"[1]", "three": b'{"a": 1}', "four": json.dumps([{}, "", ["jobs"]]).encode()}
    for tag, message in left.items():
        shared.hset("unacked", tag, message)
    shared.zadd("unacked_index", dict.fromkeys(left, 1))
    connection.default_channel.qos.restore_visible(num=10)
    assert (shared.hlen("unacked"), shared.zcard("unacked_index"), len(dropped)) == (0, 0, len(left))


def test_errors_of_the_server_are_not_swallowed(connection: Connection, shared: redis.Redis) -> None:
    shared.set("jobs", "no list")
    with pytest.raises(redis.ResponseError):
        read(connection, lambda: False)


@pytest.mark.parametrize("scheme", ["redis", "rediss", "sentinel"])
def test_every_redis_transport_is_strict(scheme: str, dropped: list[str]) -> None:
    kind = strict_connection(Connection, lambda *said: dropped.append(str(said)))
    transport = kind(f"{scheme}://localhost").get_transport_cls()
    assert issubclass(transport, RedisTransport)
    assert issubclass(transport.Channel, SentinelChannel) is (scheme == "sentinel")
    assert [part.__name__ for part in (transport, transport.Channel, transport.Channel.QoS)] == [
        "StrictTransport",
        "StrictChannel",
        "StrictQoS",
    ]


BARE = struct.pack(">HHQ", 60, 0, 2)
"""Begin of a content header: class basic, two bytes of body."""


@pytest.mark.parametrize(
    ("properties", "read"),
    [
        (b"\x80\x00\x04json", {"content_type": "json"}),
        (b"\x80\x00\x01\xff", {}),
        (b"\x80\x00", {}),
        (b"\x20\x00" + struct.pack(">I", 4) + b"\x01a?x", {}),
    ],
    ids=["good", "no text", "cut", "unknown type"],
)
@pytest.mark.parametrize("scheme", ["amqp", "amqps"])
def test_a_message_of_rabbitmq_with_unreadable_properties_has_none(
    scheme: str, properties: bytes, read: dict[str, Any]
) -> None:
    kind = strict_connection(Connection, lambda *_: None)
    connection = kind(f"{scheme}://localhost").get_transport_cls().Connection()
    came: list[Any] = []
    read_frame = connection.frame_handler_cls(connection, lambda *of_one: came.append(of_one[3]))
    for frame in ((1, 1, struct.pack(">HH", 60, 60)), (2, 1, BARE + properties), (3, 1, b"[]")):
        read_frame(frame)
    (message,) = came
    assert (bytes(message.body), message.properties) == (b"[]", read)


def test_a_compressed_message_of_rabbitmq_stays_compressed() -> None:
    kind = strict_connection(Connection, lambda *_: None)
    channel = kind("amqp://localhost").get_transport_cls().Connection.Channel
    bomb = zlib.compress(b"0" * 1_000_000)
    raw = amqp.Message(
        bomb, delivery_tag=1, content_encoding="utf-8", application_headers={"compression": "application/x-gzip"}
    )
    read = channel.message_to_python(object.__new__(channel), raw)
    assert (read.body, read.errors, read.content_encoding) == (bomb, [], "compressed")
