"""Intake of job messages: what reaches Celery is a message of Trivet's, and nothing else of what was sent.

A client of the broker may write anything. A message is read strictly and its headers are written anew from what was
understood, so that no callback, time, name or compression of the sender is acted on. The database decides whether it is
true (`trivet_store.jobs.claiming`).

With Redis a queue's elements may be no messages at all. Kombu takes for granted that every element is one of its own: any
other raises an error in the worker's event loop, which ends the worker; one that it restores after a crash is tried for
ever. The strict transport drops what kombu cannot read, one by one.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import orjson
from celery.utils.log import get_logger
from celery.worker.consumer import Consumer
from kombu import Connection
from kombu.transport import redis as redis_transport
from redis import DataError

from trivet_store.events import Drop
from trivet_tasks.catalog import PROVIDERS
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.errors import place_of
from trivet_tasks.latency import Lane
from trivet_tasks.messages import Chunk, MalformedMessage, task_name
from trivet_worker.run.process_state import Drops

log = logging.getLogger("trivet.worker")

MAX_BYTES = 1_000_000
"""A message's body is a tenth of it at most."""
_PROVIDER_OF = {task_name(provider): provider for provider in PROVIDERS}
_TASK_ID = re.compile(r"[0-9a-f-]{32,36}")
UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""Exceptions that reading an element may raise. Errors of the connection and of the server are none of these."""
_NAME_CHARS = 500


class Intake:
    """Decides which messages a worker takes.

    Args:
        served: the routes of the worker, by its own configuration.
        lane: the worker's.
        queues: names of its queues, each with its route.
    """

    def __init__(
        self, served: Mapping[str, RouteSettings], lane: Lane, queues: Mapping[str, str], drops: Drops
    ) -> None:
        self._served = served
        self._lane = lane
        self._queues = queues
        self._drops = drops

    def admits(self, message: Any) -> bool:
        """Return whether a message may go on, and remove all that is not Trivet's from it; count it if it may not."""
        try:
            chunk = read_message(message)
        except MalformedMessage as error:
            self.unreadable((message.delivery_info or {}).get("routing_key"), error.message)
            return False
        why = self._foreign(chunk)
        if why:
            self._drops.note(Drop.FORGED, chunk.route if chunk.route in self._served else "", why, len(chunk.jobs))
        return not why

    def unreadable(self, queue: object, why: str) -> None:
        """Count an element of a queue that is no message of Trivet's."""
        route = self._queues.get(queue, "") if isinstance(queue, str) else ""
        self._drops.note(Drop.UNREADABLE, route, f"an element of a queue is no message of Trivet's. {why}")

    def _foreign(self, chunk: Chunk) -> str:
        route = self._served.get(chunk.route)
        if route is None:
            return "a message names a route that this worker does not serve"
        if route.provider != chunk.provider:
            return f"a message is for {chunk.provider}, and the route is one of {route.provider} here"
        if chunk.latency.lane != self._lane:
            return f"a message of class {chunk.latency} came to a worker of the lane {self._lane}"
        return ""


def read_message(message: Any) -> Chunk:
    """Read a message and write its headers anew.

    Raises:
        MalformedMessage: it is not one of Trivet's.
    """
    if (message.content_type, message.content_encoding) != ("application/json", "utf-8"):
        raise MalformedMessage("It is not JSON in UTF-8.")
    headers = message.headers
    if not isinstance(headers, dict):
        raise MalformedMessage("It has no headers.")
    task, task_id = headers.get("task"), headers.get("id")
    provider = _PROVIDER_OF.get(task) if isinstance(task, str) else None
    if provider is None:
        raise MalformedMessage("It names a task that there is not.")
    if not isinstance(task_id, str) or not _TASK_ID.fullmatch(task_id):
        raise MalformedMessage("It has no id.")
    chunk = Chunk.from_args(provider, _args(message.body))
    message.headers = {
        "lang": "py",
        "task": task,
        "id": task_id,
        "root_id": task_id,
        "parent_id": None,
        "group": None,
        "argsrepr": str(chunk),
        "kwargsrepr": "{}",
        "ignore_result": True,
    }
    message.properties = {}
    return chunk


def _args(body: object) -> list[Any]:
    if not isinstance(body, str | bytes) or len(body) > MAX_BYTES:
        raise MalformedMessage("It has no body, or one that is too large.")
    try:
        parts = orjson.loads(body)
    except ValueError:
        raise MalformedMessage("Its body is not JSON.") from None
    if not isinstance(parts, list) or len(parts) != 3:
        raise MalformedMessage("Its body is not a list of 3.")
    args, named, embedded = parts
    if not isinstance(args, list) or named != {} or not isinstance(embedded, dict) or any(embedded.values()):
        raise MalformedMessage("Its body has more than arguments by position.")
    return args


def strict_consumer(intake: Intake) -> type[Consumer]:
    """Return the class of Celery's consumer for this worker."""
    logger = get_logger(__name__)

    class StrictConsumer(Consumer):  # type: ignore[misc] # Celery has no types
        def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Any], None]:
            handle = super().create_task_handler(*args, **options)

            def receive(message: Any) -> None:
                if intake.admits(message):
                    handle(message)
                else:
                    message.reject_log_error(logger, self.connection_errors)

            return receive

        def on_decode_error(self, message: Any, exc: Exception) -> None:
            """Drop a message that cannot be decoded. Celery's own handler would write it to the log."""
            intake.unreadable((message.delivery_info or {}).get("routing_key"), f"{type(exc).__name__}.")
            message.reject_log_error(logger, self.connection_errors)

    return StrictConsumer


def strict_connection(usual: type[Connection], unreadable: Callable[[str, str], None]) -> type[Connection]:
    """Return the class of a connection that drops what it cannot read.

    Args:
        usual: the class to build upon.
        unreadable: is told the queue, or nothing, and why.
    """

    class StrictConnection(usual):  # type: ignore[misc] # kombu has no types
        def get_transport_cls(self) -> Any:
            found = super().get_transport_cls()
            return _strict(found) if issubclass(found, redis_transport.Transport) else found

        def unreadable(self, queue: str, why: str) -> None:
            unreadable(queue, why)

    return StrictConnection


@cache
def _strict(transport: type) -> type:
    """Return the transport with strict parts; `redis://`, `rediss://` and `sentinel://` have classes of their own."""
    channel = transport.Channel  # type: ignore[attr-defined]
    qos = type("StrictQoS", (_StrictQoS, channel.QoS), {})
    strict_channel = type("StrictChannel", (_StrictChannel, channel), {"QoS": qos})
    return type("StrictTransport", (_StrictTransport, transport), {"Channel": strict_channel})


class _StrictTransport:
    client: Any

    def _deliver(self, message: Any, queue: str) -> None:
        """Hand a message to its consumer, if it has the shape that kombu gives to all."""
        fault = _fault_of(message)
        if fault:
            self.client.unreadable(queue, fault)
        else:
            super()._deliver(message, queue)  # type: ignore[misc]


class _StrictChannel:
    connection: Any

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Callable[[Any], Any], *how: Any, **options: Any
    ) -> None:
        """Consume from a queue. An error of the consumer's is a fault of its own: the message was read by then."""

        def deliver(message: Any) -> None:
            try:
                callback(message)
            except UNREADABLE as error:
                log.error("a message was read and not handled, by a fault of Trivet's own: %s", place_of(error))
                if not no_ack and not message.acknowledged:
                    message.reject()

        super().basic_consume(queue, no_ack, deliver, *how, **options)  # type: ignore[misc]

    def _brpop_read(self, **options: Any) -> Any:
        return self._guarded(super()._brpop_read, **options)  # type: ignore[misc]

    def _receive_one(self, client: Any) -> Any:
        return self._guarded(super()._receive_one, client)  # type: ignore[misc]

    def _handle_message(self, client: Any, response: Any) -> Any:
        """Read a notice to all workers. Kombu would log one that is not JSON."""
        found = super()._handle_message(client, response)  # type: ignore[misc]
        if isinstance(found["data"], bytes | str) and not _is_json(found["data"]):
            self.connection.client.unreadable("", "A notice to all workers is not JSON.")
            found["data"] = None
        return found

    def _guarded(self, read: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        try:
            return read(*arguments, **options)
        except UNREADABLE as error:
            self.connection.client.unreadable("", f"{place_of(error)}.")
            return True


class _StrictQoS:
    channel: Any

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Put an unacknowledged element back; drop one that cannot be read."""
        try:
            super().restore_by_tag(tag, client, leftmost)  # type: ignore[misc]
        except (*UNREADABLE, DataError) as error:  # the last for names that are no text
            self.channel.connection.client.unreadable("", f"{place_of(error)}.")
            self._remove_from_indices(tag).execute()  # type: ignore[attr-defined]


def _is_json(data: bytes | str) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def _fault_of(message: Any) -> str:
    """Name the part of an element that kombu needs and that is missing; empty when all is there."""
    if not isinstance(message, dict):
        return "It is no object."
    properties, headers, body = message.get("properties"), message.get("headers"), message.get("body")
    if not isinstance(properties, dict) or not isinstance(headers, dict) or not isinstance(body, str):
        return "Its properties, headers or body are missing."
    delivery = properties.get("delivery_info")
    if not isinstance(delivery, dict) or properties.get("body_encoding") != "base64" or "compression" in headers:
        return "It is not encoded as Trivet's are."
    names = properties.get("delivery_tag"), delivery.get("exchange"), delivery.get("routing_key")
    if not all(isinstance(name, str) and len(name) <= _NAME_CHARS for name in names):
        return "It has no tag or no destination."
    return ""
