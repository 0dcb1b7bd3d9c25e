"""Intake of job messages: what reaches Celery is a message of Trivet's, and nothing else of what was sent.

A client of the broker may write anything. A message is read strictly and its headers are written anew from what was
understood, so that no callback, time, name or compression of the sender is acted on. The database decides whether it is
true (`trivet_store.jobs.claiming`).

What cannot be read at all is dropped before it comes here (`strict_transport`).
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import orjson
from celery.utils.log import get_logger
from celery.worker.consumer import Consumer

from trivet_store.events import Drop
from trivet_tasks.catalog import PROVIDERS
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.latency import Lane
from trivet_tasks.messages import Chunk, MalformedMessage, task_name
from trivet_worker.run.process_state import Drops

MAX_BYTES = 1_000_000
"""A message's body is a tenth of it at most."""
_PROVIDER_OF = {task_name(provider): provider for provider in PROVIDERS}
_TASK_ID = re.compile(r"[0-9a-f-]{32,36}")


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
