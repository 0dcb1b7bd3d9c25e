"""Steps in Celery's consumer: consume exactly the queues of the routes whose work this worker takes; answer inspection only.

A message that stays in its queue is there for other workers. With Redis Celery also asks before every message, so a
worker that takes no work at all stops at once; RabbitMQ sends messages by itself, up to the prefetch count.

Celery's remote commands that change something are refused: work would stop or vanish, and nobody would see why. The answer
names Trivet's own command, which is recorded, survives restarts and shows in `trivet routes`. Inspection (`celery inspect …`,
Flower's pages) works as usual.
"""

import logging
import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from celery import bootsteps
from celery.utils.serialization import jsonify
from celery.worker import state
from celery.worker.consumer.control import Control
from celery.worker.consumer.tasks import Tasks
from celery.worker.control import Panel

from trivet_tasks.errors import place_of
from trivet_tasks.messages import is_amqp
from trivet_worker.process.runtime import Runtime
from trivet_worker.process.strict_transport import UNREADABLE

log = logging.getLogger("trivet.worker")

RECONNECT_S = 1.0
LOOK_EVERY_S = 0.2
PREFETCHED = 8
"""Chunks that RabbitMQ sends ahead to a worker whose threads are all busy. Each is acknowledged once a thread runs it,
so a free worker is never short of them, and a full one keeps no more than these from the others."""
_ROUTES = "`trivet route drain NAME` takes a route out of service, `trivet route restore NAME` puts it back"
_POOL = "`[worker] slots` sets how many calls a process makes at once, and more processes make more"
_JOBS = "`trivet job cancel ID` and `trivet batch cancel NAME` stop jobs"
_EVENTS = "workers always send their events"
INSTEAD: Mapping[str, str] = {
    "add_consumer": _ROUTES,
    "cancel_consumer": _ROUTES,
    "pool_grow": _POOL,
    "pool_shrink": _POOL,
    "pool_restart": "SIGTERM stops a worker in order, and its supervisor starts it again",
    "autoscale": _POOL,
    "shutdown": "SIGTERM stops a worker in order",
    "rate_limit": "`trivet route limit NAME` changes a route's limits, which are in the configuration "
    "(`[routes.NAME] requests_per_minute`)",
    "time_limit": "the time of calls is in the configuration (`[classes.NAME] attempt_timeout_s`)",
    "revoke": _JOBS,
    "revoke_by_stamped_headers": _JOBS,
    "terminate": _JOBS,
    "enable_events": _EVENTS,
    "disable_events": _EVENTS,
    "heartbeat": _EVENTS,
    "objgraph": "it writes files on the worker's machine",
}
"""Trivet's own way to the same end, by command."""


def consuming(runtime: Runtime, queues: Mapping[str, str]) -> type[bootsteps.StartStopStep]:
    """Return the step for this worker.

    Args:
        queues: names of its queues, each with its route.
    """

    class Consuming(bootsteps.StartStopStep):  # type: ignore[misc] # Celery has no types
        requires = (Tasks,)

        def __init__(self, consumer: Any, **options: Any) -> None:
            super().__init__(consumer, **options)
            self._timer: Any = None
            if is_amqp(consumer.app):
                consumer.initial_prefetch_count = PREFETCHED

        def start(self, consumer: Any) -> None:
            if not runtime.takes_work and state.should_stop is None:
                time.sleep(RECONNECT_S)  # a broker that refuses every command would be connected to without a pause
            self._timer = consumer.timer.call_repeatedly(LOOK_EVERY_S, lambda: _reconcile(consumer, runtime, queues))
            if not is_amqp(consumer.app):
                qos = consumer.task_consumer.channel.qos
                usual = qos.can_consume
                qos.can_consume = lambda: runtime.takes_work and usual()

        def stop(self, consumer: Any) -> None:
            del consumer
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Consuming


def _reconcile(consumer: Any, runtime: Runtime, queues: Mapping[str, str]) -> None:
    """Add the queues whose work is taken and cancel the others. A call shows that Celery's event loop moves."""
    runtime.consumer_moves()
    tasks = consumer.task_consumer
    if tasks is None:
        return
    try:
        for queue, route in queues.items():
            takes, consumes = runtime.takes_route(route), tasks.consuming_from(queue)
            if takes and not consumes:
                consumer.add_task_queue(queue)
            elif consumes and not takes:
                consumer.cancel_task_queue(queue)
    except (*consumer.connection_errors, *consumer.channel_errors) as error:
        log.debug("queues are looked at again once the broker answers: %s", type(error).__name__)


def inspection_only(unreadable: Callable[[str, str], None]) -> type[bootsteps.Step]:
    """Return the step that gives this worker's mailbox handlers of its own; other applications of the process keep theirs.

    Args:
        unreadable: is told an empty queue name and why, of a command that makes no sense.
    """

    class InspectionOnly(bootsteps.Step):  # type: ignore[misc] # Celery has no types
        requires = (Control,)

        def create(self, consumer: Any) -> None:
            """Replace the handlers before the mailbox listens. Called before any step starts."""
            for step in consumer.steps:
                if isinstance(step, Control):
                    step.box.node.handlers = handlers()
                    step.box.node.handle_message = _strict(step.box.node.handle_message, unreadable)

    return InspectionOnly


def handlers() -> dict[str, Callable[..., Any]]:
    """Return the handlers of remote commands, by name. A name that there is not is refused, too."""
    inspecting = {name for name, about in Panel.meta.items() if about.type == "inspect"} - {"objgraph"}
    answered = {name: partial(_answer, name, Panel.data[name]) for name in inspecting}
    refused = {name: partial(_refuse, name) for name in Panel.data if name not in inspecting}
    return _Handlers({**refused, **answered, "hello": partial(_answer, "hello", _hello)})


class _Handlers(dict[str, Callable[..., Any]]):
    def __missing__(self, name: str) -> Callable[..., Any]:
        return partial(_refuse, "an unknown command")


def _strict(usual: Callable[..., Any], unreadable: Callable[[str, str], None]) -> Callable[..., Any]:
    """Return a reader of the mailbox that drops what makes no sense; Celery would log a traceback and start it anew."""

    def handle(body: Any, message: Any = None) -> Any:
        if not _is_command(body):
            return unreadable("", "A remote command has not the form of one.")
        try:
            return usual(body, message)
        except (*UNREADABLE, re.error) as error:
            return unreadable("", f"A remote command has not the form of one: {place_of(error)}.")

    return handle


def _is_command(body: Any) -> bool:
    if not isinstance(body, dict) or not isinstance(body.get("method"), str):
        return False
    arguments, reply_to = body.get("arguments"), body.get("reply_to")
    return (arguments is None or isinstance(arguments, dict)) and (
        reply_to is None or (isinstance(reply_to, dict) and {"exchange", "routing_key"} <= reply_to.keys())
    )


def _answer(command: str, handler: Callable[..., Any], state: Any, /, **arguments: Any) -> Any:
    """Answer an inspection. Its arguments are foreign, and an error is told without them."""
    try:
        answer = handler(state, **arguments)
    except Exception as error:
        log.warning("the remote command %s was not answered: %s", command, place_of(error))
        return {"error": f"{command} was not answered ({type(error).__name__}). Check its arguments."}
    return _without_secrets(answer) if command == "stats" else answer


def _without_secrets(stats: dict[str, Any]) -> dict[str, Any]:
    """Replace all but plain values of the connection: a Sentinel's password is in its options, and TLS is no JSON."""
    broker = stats.get("broker")
    if not isinstance(broker, dict):
        return stats
    options = broker.get("transport_options") or {}
    plain = {name: value for name, value in options.items() if isinstance(value, str | int | float | None)}
    shown = {**broker, "transport_options": plain, "ssl": bool(broker.get("ssl"))}
    return {**stats, "broker": jsonify(shown, unknown_type_filter=lambda value: type(value).__name__)}


def _refuse(command: str, state: Any, /, **_: Any) -> dict[str, str]:
    del state
    instead = INSTEAD.get(command)
    hint = f": {instead}." if instead else "."
    log.warning("the remote command %s was refused", command)
    return {"error": f"Trivet's workers answer inspection only, and {command} was refused{hint}"}


def _hello(state: Any, /, from_node: str, **_: Any) -> Any:
    """Answer another worker's greeting; ignore its list of revoked tasks."""
    return Panel.data["hello"](state, from_node)
