"""Sending of callbacks: the outbox of ended jobs and batches goes to the brokers of the users' applications.

One thread for each application (`[celery_apps.NAME]`), so that a broker that is away or hangs delays neither dispatch nor
another application. A notice of finished jobs wakes it. Any number of schedulers share the work: each claims a group of
callbacks for a while, sends it and marks it. What one has claimed when it dies is sent by another: at least once.
"""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from celery import Celery
from celery.canvas import maybe_signature
from kombu import Exchange, Queue
from kombu.exceptions import SerializationError, SerializerNotInstalled

from trivet_store.database.engine import Store
from trivet_store.jobs import deliveries
from trivet_store.jobs.deliveries import Delivery
from trivet_tasks.celery_app import make_sender
from trivet_tasks.config.celery_apps import CeleryAppSettings, broker_url_of
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import BrokerUnavailable, ConfigError, StoreUnavailable, place_of
from trivet_tasks.messages import BROKER_ERRORS, MessageRefused, send_together

log = logging.getLogger("trivet.callbacks")

LOOK_S = 5.0
"""Seconds between two looks for callbacks that are due, without a notice of finished jobs."""
APART_S = 0.5
"""Minimum seconds from a look that found none to the next: jobs without callbacks end, too, and by the hundred a second."""
GROUP = 50
"""Callbacks that are claimed and sent together; each may have a signature of 256 KB."""
CLAIM_S = 60.0
"""Seconds for which they are claimed: longer than an attempt to send them takes with a broker that hangs."""
OUTAGE_AFTER = 2
"""Failures in a row after which a broker counts as failing: one alone may be a connection that was closed while idle."""
PAUSE_MAX_S = 60.0
"""Maximum seconds between two attempts to reach a broker."""
UNFIT_PAUSE_MAX_S = 3_600.0
"""Maximum seconds between two attempts to send a callback that cannot be made into a message."""
JOIN_S = 2.0


class Callbacks:
    """The threads of one scheduler that send callbacks. Without an application in the settings there are none."""

    def __init__(self, store: Store) -> None:
        """Send nothing yet: `reload` begins."""
        self._store = store
        self._senders: dict[str, _Sender] = {}

    def reload(self, settings: Settings) -> None:
        """Send to the applications of these settings from now on, and to no others. One that is the same goes on."""
        for name, sender in list(self._senders.items()):
            if settings.celery_apps.get(name) != sender.settings:
                sender.stop()
                del self._senders[name]
        for name, app in settings.celery_apps.items():
            if name not in self._senders:
                self._senders[name] = _Sender(self._store, settings, name, app)
                self._senders[name].start()

    def wake(self) -> None:
        """Look for callbacks that are due: jobs have ended."""
        for sender in list(self._senders.values()):  # `reload` is another thread's
            sender.woken.set()

    def close(self) -> None:
        """Stop. What a thread that hangs has claimed is sent by another scheduler."""
        senders = list(self._senders.values())
        for sender in senders:
            sender.stop()
        until = time.monotonic() + JOIN_S
        for sender in senders:
            sender.join(max(0.0, until - time.monotonic()))


class _Sender(threading.Thread):
    """Sends the callbacks of one application, until it is stopped."""

    def __init__(self, store: Store, settings: Settings, name: str, app: CeleryAppSettings) -> None:
        super().__init__(name=f"trivet-callbacks-{name}", daemon=True)
        self.settings = app
        self.woken = threading.Event()
        self._store = store
        self._base = settings.base_dir
        self._name = name
        self._stopping = threading.Event()
        self._app: Celery | None = None
        self._failures = 0
        self._group = GROUP

    def stop(self) -> None:
        """End soon. Does not wait for it."""
        self._stopping.set()
        self.woken.set()

    def run(self) -> None:
        """Send until stopped."""
        while not self._stopping.is_set():
            try:
                pause_s = self._send_due()
            except StoreUnavailable:  # the scheduler itself says so
                pause_s = APART_S
            except Exception as error:
                log.error("callbacks to %s: a fault of Trivet's own: %s", self._name, place_of(error))
                pause_s = PAUSE_MAX_S
            if pause_s is None:
                self._stopping.wait(APART_S)
                self.woken.wait(LOOK_S - APART_S)
            else:
                self._stopping.wait(pause_s)
        if self._app is not None:
            self._app.close()

    def _send_due(self) -> float | None:
        """Send a group of callbacks that are due. Returns the seconds until the next look; None: until it is woken."""
        self.woken.clear()
        with self._store.read() as connection:
            if not deliveries.any_due(self._store, connection, self._name):
                return None
        with self._store.write() as connection:
            claimed = deliveries.claim_due(self._store, connection, self._name, limit=self._group, seconds=CLAIM_S)
        if not claimed:
            return None
        try:
            unfit = _send(self._sender(), claimed)
        except MessageRefused as error:
            why = f"Its broker refuses it ({error.reason}). Give its queue the arguments that it had at the submit."
            if len(claimed) > 1:
                return self._one_by_one(claimed, why)
            self._set_aside(claimed, {claimed[0].id: why})
            return 0.0
        except (BrokerUnavailable, ConfigError) as error:
            return self._failed(claimed, error.message)
        self._sent([one for one in claimed if one.id not in unfit])
        self._set_aside([one for one in claimed if one.id in unfit], unfit)
        return 0.0

    def _sender(self) -> Celery:
        if self._app is None:
            url = broker_url_of(self._name, self.settings, self._base)
            self._app = make_sender(self._name, url, self.settings.broker_transport_options)
        return self._app

    def _sent(self, claimed: Sequence[Delivery]) -> None:
        if not claimed:
            return
        self._failures, self._group = 0, min(GROUP, 2 * self._group)
        with self._store.write() as connection:
            outage_s = deliveries.sent(self._store, connection, self._name, claimed)
        if outage_s is not None:
            log.warning("callbacks to %s are sent again after %.0f s", self._name, outage_s)

    def _failed(self, claimed: Sequence[Delivery], why: str) -> float:
        """Postpone callbacks that the broker has not taken, to be sent singly. Returns the seconds until the next attempt."""
        self._failures += 1
        self._group = 1
        pause_s = min(PAUSE_MAX_S, 2.0 ** min(self._failures - 1, 10))
        of_row = min(PAUSE_MAX_S, 2.0 ** min(max(one.failures for one in claimed), 10))
        if self._app is not None:  # its secret may be another by now, and its connections are broken
            self._app.close()
            self._app = None
        with self._store.write() as connection:
            deliveries.postpone(self._store, connection, claimed, why, max(pause_s, of_row))
            outage = self._failures >= OUTAGE_AFTER and deliveries.note_outage(self._store, connection, self._name, why)
        if outage:
            log.warning("callbacks to %s wait: %s", self._name, why)
        return pause_s

    def _one_by_one(self, claimed: Sequence[Delivery], why: str) -> float:
        """Let callbacks be sent singly, since the broker refuses one of them. Returns 0: at once."""
        self._group = 1
        with self._store.write() as connection:
            deliveries.postpone(self._store, connection, claimed, why, 0.0)
        return 0.0

    def _set_aside(self, claimed: Sequence[Delivery], why: Mapping[int, str]) -> None:
        for one in claimed:
            pause_s = min(UNFIT_PAUSE_MAX_S, PAUSE_MAX_S * 2 ** min(one.failures, 10))
            with self._store.write() as connection:
                deliveries.postpone(self._store, connection, [one], why[one.id], pause_s)
            if one.failures <= 1:  # 1: it was sent together with others before
                log.warning("a callback to %s cannot be sent: %s", self._name, why[one.id])


def _send(app: Celery, claimed: Sequence[Delivery]) -> dict[int, str]:
    """Send callbacks. Returns those that cannot be made into messages, and why.

    Raises:
        MessageRefused: the broker refused one. Some or all were not sent.
        BrokerUnavailable: some or all were not sent.
    """
    unfit: dict[int, str] = {}

    def send(producer: Any) -> int:
        for one in claimed:
            try:
                _apply(app, one, producer)
            except (
                SerializationError,
                SerializerNotInstalled,
            ):  # its text may hold the user's data, like that of the errors below
                unfit[one.id] = "Its arguments or options cannot be written with its serializer."
            except BROKER_ERRORS:
                raise
            except Exception as error:
                unfit[one.id] = f"Its signature is not one that Celery can send ({type(error).__name__})."
        return len(claimed) - len(unfit)

    send_together(app, send)
    return unfit


def _apply(app: Celery, one: Delivery, producer: Any) -> None:
    """Send one callback. The notice goes before its own arguments, unless it is immutable."""
    signature = maybe_signature(one.signature, app=app)
    # the same id for the same end: a second message of it can be told
    task_id = str(uuid5(NAMESPACE_URL, f"trivet:{one.id}:{one.name}:{one.ended_at}"))
    options: dict[str, Any] = {"producer": producer, "retry": False, "task_id": task_id}
    first, notice = signature, [one.notice]
    if signature.get("subtask_type") == "chain":
        # `chain.apply_async` would take a producer of its own
        own = signature.options
        given = [] if signature.immutable else notice
        steps, _ = signature.prepare_steps(
            given,
            {},
            signature.tasks,
            link_error=own.get("link_error"),
            app=app,
            last_task_id=own.get("task_id", task_id),
        )
        for link in own.get("link") or ():
            steps[0].extend_list_option("link", link)
        first, notice = steps.pop(), []
        own_id = signature.tasks[0].options.get("task_id")
        first_id = None if own_id or not steps else str(uuid5(NAMESPACE_URL, f"{task_id}:first"))
        options = {**options, "task_id": first_id, "chain": steps or None}
    elif first.options.get("task_id"):
        options["task_id"] = None
    queue = first.options.get("queue")
    if isinstance(queue, Mapping):
        options["queue"] = _queue(queue)
    first.apply_async(notice, **options)


def _queue(described: Mapping[str, Any]) -> Queue:
    """Return a queue as the user's application declares it (`signatures`)."""
    values = {name: value for name, value in described.items() if name not in ("name", "exchange")}
    exchange = described.get("exchange")
    return Queue(described["name"], Exchange(**exchange) if exchange else None, **values)
