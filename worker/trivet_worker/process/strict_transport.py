"""Connections that drop what kombu cannot read, one by one, and go on.

Kombu takes for granted that every element of a queue is a message of its own. Any other raises an error in the worker's
event loop, which ends the worker; the message stays in its queue and ends the next one, too. With Redis an element may be
anything. RabbitMQ's messages have a frame, and properties that may be no text or announce a compressed body.
"""

import json
import logging
import struct
from collections.abc import Callable
from functools import cache
from typing import Any

from amqp.exceptions import FrameSyntaxError
from amqp.method_framing import frame_handler
from amqp.serialization import decode_properties_basic
from kombu import Connection
from kombu.transport import pyamqp
from kombu.transport import redis as redis_transport
from redis import DataError

from trivet_tasks.errors import place_of

log = logging.getLogger("trivet.worker")

UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""Exceptions that reading an element may raise. Errors of the connection and of the server are none of these."""
_NAME_CHARS = 500
_CONTENT_HEADER = 2
"""Type of AMQP's frame with the size of a body and the properties of a message."""
_FIXED_BYTES = 12
"""Length of class, weight and body size at its beginning; the flags and values of the properties follow."""


def strict_connection(usual: type[Connection], unreadable: Callable[[str, str], None]) -> type[Connection]:
    """Return the class of a connection that drops what it cannot read.

    Args:
        usual: the class to build upon.
        unreadable: is told the queue, or nothing, and why.
    """

    class StrictConnection(usual):  # type: ignore[misc] # kombu has no types
        def get_transport_cls(self) -> Any:
            found = super().get_transport_cls()
            if issubclass(found, pyamqp.Transport):
                return _strict_amqp(found)
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


@cache
def _strict_amqp(transport: type) -> type:
    """Return the transport with strict parts; `amqp://` and `amqps://` have classes of their own."""
    connection = transport.Connection  # type: ignore[attr-defined]
    channel = type("StrictAmqpChannel", (_StrictAmqpChannel, connection.Channel), {})
    strict_connection = type("StrictAmqpConnection", (_StrictAmqpConnection, connection), {"Channel": channel})
    return type("StrictAmqpTransport", (transport,), {"Connection": strict_connection})


class _StrictAmqpConnection:
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"frame_handler": _strict_frames, **options})


class _StrictAmqpChannel:
    def message_to_python(self, raw_message: Any) -> Any:
        """Return kombu's message. It would decompress the body at once, to any size, if a header says so."""
        headers = raw_message.properties.get("application_headers")
        if isinstance(headers, dict) and headers.pop("compression", None) is not None:
            raw_message.properties["content_encoding"] = "compressed"
        return super().message_to_python(raw_message)  # type: ignore[misc]


def _strict_frames(connection: Any, callback: Any) -> Callable[[Any], bool]:
    """Return amqp's reader of frames, for which a message with unreadable properties is one without any."""
    usual = frame_handler(connection, callback)

    def on_frame(frame: Any) -> bool:
        kind, channel, content = frame
        return bool(usual((kind, channel, _readable(content)) if kind == _CONTENT_HEADER else frame))

    return on_frame


def _readable(header: bytes) -> bytes:
    """Return the content header as it is if its properties can be read, else without them."""
    try:
        decode_properties_basic(header, _FIXED_BYTES)
    except (*UNREADABLE, struct.error, FrameSyntaxError):
        return bytes(header[:_FIXED_BYTES]) + b"\0\0"
    return header
