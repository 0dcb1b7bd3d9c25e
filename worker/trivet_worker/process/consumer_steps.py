"""Step in Celery's consumer that consumes exactly the queues of the routes whose work this worker takes.

A message that stays in its queue is there for other workers. With Redis Celery also asks before every message, so a
worker that takes no work at all stops at once; RabbitMQ sends messages by itself, up to the prefetch count.
"""

import logging
import time
from collections.abc import Mapping
from typing import Any

from celery import bootsteps
from celery.worker import state
from celery.worker.consumer.tasks import Tasks

from trivet_worker.process.runtime import Runtime

log = logging.getLogger("trivet.worker")

RECONNECT_S = 1.0
LOOK_EVERY_S = 0.2
PREFETCHED = 8
"""Chunks that RabbitMQ sends ahead to a worker whose threads are all busy. Each is acknowledged once a thread runs it,
so a free worker is never short of them, and a full one keeps no more than these from the others."""


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
            if _is_amqp(consumer):
                consumer.initial_prefetch_count = PREFETCHED

        def start(self, consumer: Any) -> None:
            if not runtime.takes_work and state.should_stop is None:
                time.sleep(RECONNECT_S)  # a broker that refuses every command would be connected to without a pause
            self._timer = consumer.timer.call_repeatedly(LOOK_EVERY_S, lambda: _reconcile(consumer, runtime, queues))
            if not _is_amqp(consumer):
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
    """Add the queues whose work is taken and cancel the others. Called in Celery's event loop, which so has moved."""
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


def _is_amqp(consumer: Any) -> bool:
    return str(consumer.app.conf.broker_url).startswith("amqp")
