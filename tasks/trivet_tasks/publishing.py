"""Publishing of chunks to the queues of their routes, over Redis or RabbitMQ."""

import time
from collections.abc import Iterable
from typing import Any, Final
from weakref import WeakKeyDictionary

from celery import Celery
from kombu import Exchange, Queue

from trivet_tasks.config.server_urls import masked
from trivet_tasks.errors import BrokerUnavailable
from trivet_tasks.latency import Latency
from trivet_tasks.messages import Chunk, queue_name, task_name
from trivet_tasks.server_errors import BROKER_ERRORS, broker_unavailable

CONFIRM_S = 5.0
"""Time that RabbitMQ may take to confirm a publish."""
ACQUIRE_S = 10.0

QUEUE_ARGUMENTS: Final = {"x-message-ttl": 900_000, "x-expires": 86_400_000}
"""Milliseconds. Messages older than the longest `[dispatch] taken_within_s` are stale, and their jobs were dispatched
again; a queue that no worker has used for a day belongs to a route that is gone."""


def queue_of(app: Celery, route: str, latency: Latency) -> Queue:
    """Return the queue of a route and class as it is declared.

    With RabbitMQ: durable, so that workers find it after a restart of the broker; classic, because its messages are
    hints which need no replicas.
    """
    name = queue_name(route, latency)
    queues = app.amqp.queues
    if name not in queues and _is_amqp(app):
        arguments = dict(QUEUE_ARGUMENTS)
        queues[name] = Queue(name, Exchange("", type="direct"), name, durable=True, queue_arguments=arguments)
    return queues[name]


def publish(app: Celery, chunks: Iterable[Chunk]) -> None:
    """Send chunks to their queues: pipelined with Redis, confirmed as a group by RabbitMQ.

    They have no expiry of Celery's, which uses the worker's wall clock: one that is ahead would throw all of them away.
    Stale messages are dropped at the claim, by their tokens.

    Raises:
        BrokerUnavailable: some or all were not sent. Their jobs are dispatched again in time.
    """
    try:
        with app.producer_pool.acquire(block=True, timeout=ACQUIRE_S) as producer:
            try:
                if _is_amqp(app):
                    _send_confirmed(app, producer, chunks)
                else:
                    with producer.batch(max_size=100):
                        _send(app, producer, chunks)
            except BaseException:
                if _is_amqp(app):  # its answers would be taken for those to the next messages
                    producer.connection.collect(socket_timeout=1)
                raise
    except BROKER_ERRORS as error:
        raise broker_unavailable(app.conf.broker_url, error) from None


def _send(app: Celery, producer: Any, chunks: Iterable[Chunk]) -> int:
    sent = 0
    for chunk in chunks:
        app.send_task(
            task_name(chunk.provider),
            args=chunk.to_args(),
            queue=queue_of(app, chunk.route, chunk.latency),
            producer=producer,
            argsrepr=str(chunk),
            kwargsrepr="{}",
            retry=False,
            ignore_result=True,
        )
        sent += 1
    return sent


def _send_confirmed(app: Celery, producer: Any, chunks: Iterable[Chunk]) -> None:
    _reconnect_if_lost(producer)
    connection = producer.channel.connection
    confirms = _Confirms.of(producer.channel)
    confirms.expect(_send(app, producer, chunks))
    deadline = time.monotonic() + CONFIRM_S
    while confirms.missing:
        try:
            connection.drain_events(timeout=max(0.001, deadline - time.monotonic()))
        except TimeoutError:
            raise BrokerUnavailable(
                f"The broker {masked(app.conf.broker_url)} takes no messages: it confirmed none for {CONFIRM_S:g} s.",
                hint="RabbitMQ blocks senders while its memory or disk alarm lasts: see `rabbitmqctl status`. Work goes on by itself.",
            ) from None
    if confirms.refused:
        raise BrokerUnavailable(f"The broker {masked(app.conf.broker_url)} refused messages (basic.nack).")


def _reconnect_if_lost(producer: Any) -> None:
    """Replace a pooled connection that the broker closed while it was idle."""
    connection = producer.connection
    try:
        producer.channel.connection.drain_events(timeout=0)
    except TimeoutError:
        return  # there is nothing to read
    except (*BROKER_ERRORS, AttributeError):  # py-amqp's for a connection that is closed already
        connection.collect(socket_timeout=1)
        producer.revive(connection)


class _Confirms:
    """RabbitMQ's answers on one channel. Its tags count what was sent there since confirms were asked for."""

    def __init__(self, channel: Any) -> None:
        self.refused = False
        self._sent = 0
        self._answered = 0
        self._single: set[int] = set()
        channel.confirm_select()
        channel.events["basic_ack"].add(self._on_ack)
        channel.events["basic_nack"].add(self._on_nack)

    @classmethod
    def of(cls, channel: Any) -> "_Confirms":
        """Return those of this channel; new ones begin with this call."""
        found = _confirms.get(channel)
        if found is None:
            found = _confirms[channel] = cls(channel)
        found.refused = False
        return found

    def expect(self, messages: int) -> None:
        """Count what was sent."""
        self._sent += messages

    @property
    def missing(self) -> int:
        """Return the number of messages without an answer."""
        return self._sent - self._answered - len(self._single)

    def _on_ack(self, tag: int, multiple: bool) -> None:
        if multiple:
            self._answered = max(self._answered, tag)
            self._single = {one for one in self._single if one > self._answered}
            return
        self._single.add(tag)
        while self._answered + 1 in self._single:
            self._answered += 1
            self._single.discard(self._answered)

    def _on_nack(self, tag: int, multiple: bool) -> None:
        self.refused = True
        self._on_ack(tag, multiple)


_confirms: WeakKeyDictionary[Any, _Confirms] = WeakKeyDictionary()


def _is_amqp(app: Celery) -> bool:
    return str(app.conf.broker_url).startswith("amqp")
