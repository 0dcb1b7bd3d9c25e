"""The Redis transport of a worker, for elements of a queue that kombu cannot read: they are dropped, one by one.

Kombu takes for granted that every element is one of its own. Any other raises an error in the worker's event loop, which
ends the worker; one that it restores after a crash is tried for ever.
"""

import json
import logging
from collections.abc import Callable
from functools import cache
from typing import Any

from kombu import Connection
from kombu.transport import redis as redis_transport
from redis import DataError

from trivet_tasks.errors import place_of

log = logging.getLogger("trivet.worker")

_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""Exceptions that reading an element may raise. Errors of the connection and of the server are none of these."""
_NAME_CHARS = 500


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
    """The same transport with strict parts; `redis://`, `rediss://` and `sentinel://` each have classes of their own."""
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
            except _UNREADABLE as error:
                log.error("a message was read and not handled, by a fault of Trivet's own: %s", place_of(error))
                if not no_ack and not message.acknowledged:
                    message.reject()

        super().basic_consume(queue, no_ack, deliver, *how, **options)  # type: ignore[misc]

    def _brpop_read(self, **options: Any) -> Any:
        return self._guarded(super()._brpop_read, **options)  # type: ignore[misc]

    def _receive_one(self, client: Any) -> Any:
        return self._guarded(super()._receive_one, client)  # type: ignore[misc]

    def _handle_message(self, client: Any, response: Any) -> Any:
        """Read what was published to all workers. Kombu would write what is not JSON to the log."""
        found = super()._handle_message(client, response)  # type: ignore[misc]
        if isinstance(found["data"], bytes | str) and not _is_json(found["data"]):
            self.connection.client.unreadable("", "A notice to all workers is not JSON.")
            found["data"] = None
        return found

    def _guarded(self, read: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        try:
            return read(*arguments, **options)
        except _UNREADABLE as error:
            self.connection.client.unreadable("", f"{place_of(error)}.")
            return True


class _StrictQoS:
    channel: Any

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Put an element back that was taken and never acknowledged; forget it where it cannot be read."""
        try:
            super().restore_by_tag(tag, client, leftmost)  # type: ignore[misc]
        except (*_UNREADABLE, DataError) as error:  # the last for names that are no text
            self.channel.connection.client.unreadable("", f"{place_of(error)}.")
            self._remove_from_indices(tag).execute()  # type: ignore[attr-defined]


def _is_json(data: bytes | str) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def _fault_of(message: Any) -> str:
    """Return what kombu needs of an element and is missing; empty when all is there."""
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
