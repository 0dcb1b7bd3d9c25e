"""Steps in Celery's consumer by which a worker that takes no work takes no message either: others may, and none is lost.

With Redis Celery is asked before every message. RabbitMQ sends messages by itself, up to the prefetch count: there the
consumers are cancelled, and begin again when the worker takes work.
"""

import time
from typing import Any

from celery import bootsteps
from celery.worker import state
from celery.worker.consumer.tasks import Tasks

from trivet_worker.runtime import Runtime

RECONNECT_S = 1.0
LOOK_EVERY_S = 0.2
PREFETCHED = 8
"""Chunks that RabbitMQ sends ahead to a worker whose threads are all busy. Each is acknowledged once a thread runs it,
so a free worker is never short of them, and a full one keeps no more than these from the others."""


def pausing(runtime: Runtime) -> type[bootsteps.StartStopStep]:
    """Return the step for this worker."""

    class Pausing(bootsteps.StartStopStep):  # type: ignore[misc] # Celery has no types
        requires = (Tasks,)

        def __init__(self, consumer: Any, **options: Any) -> None:
            super().__init__(consumer, **options)
            self._timer: Any = None
            if _is_amqp(consumer):
                consumer.initial_prefetch_count = PREFETCHED

        def start(self, consumer: Any) -> None:
            if not runtime.takes_work and state.should_stop is None:
                time.sleep(RECONNECT_S)  # a broker that refuses every command would be connected to without a pause
            if _is_amqp(consumer):
                self._timer = consumer.timer.call_repeatedly(LOOK_EVERY_S, _Switch(consumer, runtime))
                return
            qos = consumer.task_consumer.channel.qos
            usual = qos.can_consume
            qos.can_consume = lambda: runtime.takes_work and usual()

        def stop(self, consumer: Any) -> None:
            del consumer
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Pausing


def _is_amqp(consumer: Any) -> bool:
    return str(consumer.app.conf.broker_url).startswith("amqp")


class _Switch:
    """Cancels the consumers of one connection, and starts them again. Called in Celery's event loop."""

    def __init__(self, consumer: Any, runtime: Runtime) -> None:
        self._consumer = consumer
        self._runtime = runtime
        self._cancelled = False

    def __call__(self) -> None:
        if self._runtime.takes_work != self._cancelled:
            return
        tasks = self._consumer.task_consumer
        if tasks is None:
            return
        if self._cancelled:
            tasks.consume()
        else:
            tasks.cancel()
        self._cancelled = not self._cancelled
