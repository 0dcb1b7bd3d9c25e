"""Steps in Celery's consumer: consume exactly the queues of the routes whose work this worker takes; answer inspection only.

A message that stays in its queue is there for other workers. With Redis Celery also asks before every message, so a
worker that takes no work at all stops at once; RabbitMQ sends messages by itself, up to the prefetch count.

Celery's remote commands that change something are refused: work would stop or vanish, and nobody would see why. The answer
names Trivet's own command, which is recorded, survives restarts and shows in `trivet routes`. Inspection (`celery inspect …`,
Flower's pages) works as usual.
"""

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from celery import bootsteps
from celery.worker import state
from celery.worker.consumer.control import Control
from celery.worker.consumer.tasks import Tasks
from celery.worker.control import Panel

from trivet_tasks.messages import is_amqp
from trivet_worker.process.runtime import Runtime

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
    "rate_limit": "a route's limits are in the configuration (`[routes.NAME] requests_per_minute`)",
    "time_limit": "the time of calls is in the configuration (`[classes.NAME] attempt_timeout_s`)",
    "revoke": _JOBS,
    "revoke_by_stamped_headers": _JOBS,
    "terminate": _JOBS,
    "enable_events": _EVENTS,
    "disable_events": _EVENTS,
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


class InspectionOnly(bootsteps.Step):  # type: ignore[misc] # Celery has no types
    """Consumer step that gives this worker's mailbox handlers of its own; other applications of the process keep theirs."""

    requires = (Control,)

    def create(self, consumer: Any) -> None:
        """Replace the handlers before the mailbox listens. Called before any step starts."""
        for step in consumer.steps:
            if isinstance(step, Control):
                step.box.node.handlers = handlers()


def handlers() -> dict[str, Callable[..., Any]]:
    """Return the handlers of remote commands, by name."""
    allowed = {name: Panel.data[name] for name, about in Panel.meta.items() if about.type == "inspect"}
    refused = {name: partial(_refuse, name) for name in Panel.data if name not in allowed}
    return {**allowed, **refused, "hello": _hello}


def _refuse(command: str, state: Any, /, **_: Any) -> dict[str, str]:
    del state
    instead = INSTEAD.get(command)
    hint = f": {instead}." if instead else "."
    log.warning("the remote command %s was refused", command)
    return {"error": f"Trivet's workers answer inspection only, and {command} was refused{hint}"}


def _hello(state: Any, /, from_node: str, **_: Any) -> Any:
    """Answer another worker's greeting; ignore its list of revoked tasks."""
    return Panel.data["hello"](state, from_node)
