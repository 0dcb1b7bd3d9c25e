"""The messages between schedulers and workers, and their publishing to the queues of routes, over Redis or RabbitMQ.

One message carries one chunk of jobs to one route. It is a hint: ids and fencing tokens, never a prompt. Losing it loses no
job. Any client of the broker can write one, so it is read strictly, and compared with the database before anything is done.

The broker's errors in words are here, too: this module loads kombu and amqp, which a command that only reads the database
does not need.
"""

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakKeyDictionary

from amqp.exceptions import AccessRefused, AMQPError, NotAllowed, PreconditionFailed, ResourceLocked
from amqp.exceptions import NotFound as ChannelNotFound
from celery import Celery
from kombu import Exchange, Queue
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from trivet_tasks.config.server_urls import masked
from trivet_tasks.errors import BrokerUnavailable, TrivetError
from trivet_tasks.jobs import DispatchedJob
from trivet_tasks.latency import Latency
from trivet_tasks.server_errors import explain, reason_of

MAX_JOBS = 1_000
"""Maximum number of jobs in one message; the setting `chunk_jobs` allows half as many."""
MODEL_CHARS = 120
_MAX_INT = 2**31 - 1
_ROUTE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_DIGITS = re.compile(r"[0-9a-f]{32}")
_TOKEN = re.compile(r"[0-9A-Za-z]{0,64}")

CONFIRM_S = 5.0
"""Time that RabbitMQ may take to confirm a publish."""
ACQUIRE_S = 10.0

QUEUE_ARGUMENTS: Final = {"x-message-ttl": 900_000, "x-expires": 86_400_000}
"""Milliseconds. Messages older than the longest `[dispatch] taken_within_s` are stale, and their jobs were dispatched
again; a queue that no worker has used for a day belongs to a route that is gone."""

_REFUSALS = (ChannelNotFound, PreconditionFailed, ResourceLocked)
BROKER_ERRORS = (KombuError, RedisError, AMQPError, OSError)
"""Raised by kombu where the broker is away or refuses."""


class MessageRefused(BrokerUnavailable):
    """The broker works and refuses a message, e.g. since its queue has other arguments by now. `reason` is the broker's."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class MalformedMessage(TrivetError):
    """A message is not one of Trivet's. The text names the part that is wrong, and quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Jobs of one class and model on their way to one route."""

    route: str
    provider: str
    latency: Latency
    model: str
    jobs: tuple[DispatchedJob, ...]
    probe: str = ""
    """Token with which the one job, a probe, may pass an open circuit breaker."""
    isolated: bool = False
    """True if the job is quarantined: it was in flight when a worker process died, and runs in a process of its own."""

    def to_args(self) -> list[Any]:
        """The Celery arguments."""
        return [self.route, self.latency.value, self.model, [list(job) for job in self.jobs], self.probe, self.isolated]

    @classmethod
    def from_args(cls, provider: str, args: Sequence[Any]) -> "Chunk":
        """Read the Celery arguments; the provider is in the task's name.

        Raises:
            MalformedMessage: they are not what `to_args` makes.
        """
        if len(args) != 6:
            raise MalformedMessage(f"It has {len(args)} arguments; there are 6.")
        route, latency, model, jobs, probe, isolated = args
        checked = (
            ("route", _is_text(route, _ROUTE)),
            ("class", isinstance(latency, str) and latency in _CLASSES),
            ("model", isinstance(model, str) and 1 <= len(model) <= MODEL_CHARS and model.isprintable()),
            ("jobs", isinstance(jobs, list) and 1 <= len(jobs) <= MAX_JOBS),
            ("probe token", _is_text(probe, _TOKEN)),
            ("mark of an isolated job", isinstance(isolated, bool)),
        )
        for name, good in checked:
            if not good:
                raise MalformedMessage(f"Its {name} cannot be one.")
        dispatched = tuple(_dispatched(job) for job in jobs)
        if len({job.id for job in dispatched}) < len(dispatched):
            raise MalformedMessage("It names a job twice.")
        if (probe or isolated) and len(dispatched) > 1:
            raise MalformedMessage("It names several jobs, where a probe or an isolated job has its own message.")
        return cls(route, provider, Latency(latency), model, dispatched, probe, isolated)

    def __str__(self) -> str:
        what = "probe" if self.probe else f"jobs={len(self.jobs)}" + (", isolated" if self.isolated else "")
        return f"(route={self.route}, class={self.latency}, model={self.model}, {what})"


_CLASSES = frozenset(latency.value for latency in Latency)


def _dispatched(fields: Any) -> DispatchedJob:
    if not isinstance(fields, list) or len(fields) != 5:
        raise MalformedMessage("One of its jobs is not a list of 5.")
    job_id, claim, input_estimate, max_tokens, cache_key = fields
    good = (
        _is_text(job_id, _DIGITS)
        and _is_count(claim)
        and _is_count(input_estimate)
        and _is_count(max_tokens)
        and (cache_key is None or _is_text(cache_key, _DIGITS))
    )
    if not good:
        raise MalformedMessage("One of its jobs has a field that cannot be one.")
    return DispatchedJob(job_id, claim, input_estimate, max_tokens, cache_key)


def _is_text(value: Any, pattern: re.Pattern[str]) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX_INT  # True is an int, too


def queue_name(route: str, latency: Latency) -> str:
    """The queue of a route and class."""
    return f"{route}.{latency}"


def task_name(provider: str) -> str:
    """The task's name: by provider, so that Flower and its metrics tell the providers apart."""
    return f"trivet.run.{provider}"


def queue_of(app: Celery, route: str, latency: Latency) -> Queue:
    """Return the queue of a route and class as it is declared.

    With RabbitMQ: durable, so that workers find it after a restart of the broker; classic, because its messages are
    hints which need no replicas.
    """
    name = queue_name(route, latency)
    queues = app.amqp.queues
    if name not in queues and is_amqp(app):
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
    send_together(app, lambda producer: _send(app, producer, chunks))


def send_together(app: Celery, send: Callable[[Any], int]) -> None:
    """Send messages pipelined with Redis, confirmed as a group by RabbitMQ.

    Args:
        app: the application that sends.
        send: sends them by the producer that it is given, and returns their number.

    Raises:
        MessageRefused: RabbitMQ refused one of them. Some or all were not sent.
        BrokerUnavailable: some or all were not sent.
    """
    try:
        with app.producer_pool.acquire(block=True, timeout=ACQUIRE_S) as producer:
            try:
                if is_amqp(app):
                    _send_confirmed(app, producer, send)
                else:
                    with producer.batch(max_size=100):
                        send(producer)
            except BaseException:
                if is_amqp(app):  # its answers would be taken for those to the next messages
                    producer.connection.collect(socket_timeout=1)
                raise
    except _REFUSALS as error:
        raise MessageRefused(broker_text(app.conf.broker_url, error), reason=reason_of(error)) from None
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


def _send_confirmed(app: Celery, producer: Any, send: Callable[[Any], int]) -> None:
    _reconnect_if_lost(producer)
    connection = producer.channel.connection
    confirms = _Confirms.of(producer.channel)
    confirms.expect(send(producer))
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


def is_amqp(app: Celery) -> bool:
    """Return whether the broker is RabbitMQ, and not Redis."""
    return str(app.conf.broker_url).startswith("amqp")


def broker_unavailable(url: str, error: BaseException) -> BrokerUnavailable:
    """Return the error for a person to read.

    Args:
        url: the broker's; its password is not shown.
    """
    return BrokerUnavailable(broker_text(url, error))


def broker_text(url: str, error: BaseException) -> str:
    """Return what is wrong with the broker, and what to do about it."""
    return f"The broker {masked(url)} {_explain(error)}"


def _explain(error: BaseException) -> str:
    cause = error
    while isinstance(cause, KombuError) and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, AccessRefused):
        return (
            "refuses the user, the password or the permission (403). Check user and password in its URL; "
            "docs/how-to/run-on-rabbitmq.md lists the permissions that Trivet needs."
        )
    if isinstance(cause, NotAllowed):
        return "has no such virtual host, or does not let the user use it (530). Check the end of its URL."
    if isinstance(cause, PreconditionFailed):
        return f"has a queue that was declared otherwise (406): {reason_of(cause)}. Delete it; it is declared anew."
    if isinstance(cause, AMQPError):
        return f"does not answer: {reason_of(cause)}."
    return explain(cause)
