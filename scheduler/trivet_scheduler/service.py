"""The scheduler process: dispatch when something wakes it, and the periodic work on jobs."""

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import redis

from trivet_routing.limits import Limits
from trivet_routing.liveness.heartbeat import Heartbeat, Holder
from trivet_routing.liveness.monitors import DependencyMonitor, Pulse, Pulses
from trivet_routing.liveness.process_impairments import BROKER, DATABASE, FAULT, SHARED_STATE, ProcessImpairments
from trivet_routing.route_directory import RouteDirectory
from trivet_scheduler.budget_monitor import BudgetMonitor
from trivet_scheduler.delivering import Callbacks
from trivet_scheduler.dispatch import Dispatcher
from trivet_scheduler.housekeeping import Housekeeping
from trivet_scheduler.probing import Prober
from trivet_scheduler.restoring import Restorer
from trivet_scheduler.schedules import ScheduleRunner
from trivet_store import schedules
from trivet_store.cluster import registry, route_overrides
from trivet_store.cluster.leases import SCHEDULER
from trivet_store.cluster.registry import Kind
from trivet_store.database.engine import Store
from trivet_store.ledger import budgets
from trivet_store.migrations.schema_version import ensure
from trivet_tasks.celery_app import make_app
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import BrokerUnavailable, ConfigError, StoreUnavailable, place_of
from trivet_tasks.shared_state import (
    FINISHED_CHANNEL,
    WORK_CHANNEL,
    connect,
    publish_finished,
    refuse_cluster,
    unavailable_text,
)

log = logging.getLogger("trivet.scheduler")

GATHER_S = 0.01
"""Seconds to wait for more notices after a wake-up: one pass for a burst of them."""
APART_S = 0.05
"""Seconds between two passes under load, so that enough capacity becomes free for chunks worth sending."""
HOUSEKEEPING_S = 0.5
"""Seconds between two looks for jobs that are due, unclaimed, held by a dead process or late."""
RECONCILE_S = 5.0
"""Seconds between two comparisons of the recorded with the actual health of the routes."""
IMPAIRED_PAUSE_S = 1.0
STALLED_S = 5.0
"""Seconds without a beat, beside the pause and the database's time, after which a pass hangs. It beats after every
step, and within the long ones after every transaction."""


@dataclass(slots=True)
class _Due:
    """The time at which each periodic task is due next, on the monotonic clock."""

    housekeeping: float = 0.0
    dispatch: float = 0.0
    reconcile: float = 0.0


class Scheduler:
    """One scheduler. `run` blocks until `stop`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store = Store.of(settings)
        self._redis = connect(settings.redis_url)
        self._directory = RouteDirectory(self._store, Limits(self._redis, settings.health))
        self._app = make_app(settings)
        self._dispatcher = Dispatcher(self._store, self._directory, self._app, settings)
        self._restorer = Restorer(self._store, self._redis, self._directory, settings)
        self._prober = Prober(self._store, self._directory, self._app, settings)
        self._pulse = Pulse("Its dispatching", settings.dispatch.interval_s + STALLED_S, needs_broker=True)
        self._housekeeping = Housekeeping(
            self._store, self._directory.limits, self._tell_finished, settings.leases, self._pulse.beat
        )
        self._budgets = BudgetMonitor(self._store, self._directory)
        self._callbacks = Callbacks(self._store)
        self._due = _Due()
        self._process_impairments = ProcessImpairments(log, "no jobs are dispatched")
        self._name = name = f"{SCHEDULER}.{os.getpid()}@{socket.gethostname()}"
        self._schedules = ScheduleRunner(self._store, settings, name)
        self._heartbeat = Heartbeat(self._store, settings.leases, Holder(name, SCHEDULER), self._process_impairments)
        self._pulses = Pulses(
            self._process_impairments,
            self._pulse,
            on_change=self._heartbeat.beat_soon,
            waited_s=lambda: self._store.waited_s,
        )
        self._watch = DependencyMonitor(
            self._store, settings, self._process_impairments, process=name, part=SCHEDULER, look_also=self._pulses.look
        )
        self._wake = threading.Event()
        self._stopping = threading.Event()

    def run(self, on_ready: Callable[[], None] | None = None) -> None:
        """Register the routes, then dispatch and do the periodic work until stopped.

        Raises:
            SchemaMismatch, ConfigError, StoreUnavailable: at the start only. Later impairments are logged and waited out.
        """
        refuse_cluster(self._settings)
        ensure(self._store)
        self.reload(self._settings)
        listener = threading.Thread(target=self._listen, name="trivet-wake", daemon=True)
        listener.start()
        self._heartbeat.start()
        self._pulses.start()
        self._watch.start()
        self._schedules.start()
        if on_ready:
            on_ready()
        log.info("scheduling on %s", self._store.shown_url)
        while not self._stopping.is_set():
            self._guarded(self._pass)
            self._pulse.beat()
        self._schedules.close()
        self._callbacks.close()
        self._watch.close()
        with contextlib.suppress(StoreUnavailable):  # the lease runs out by itself
            self._heartbeat.close()
        listener.join(timeout=2)
        self._app.close()
        self._store.close()

    def reload(self, settings: Settings) -> None:
        """Register routes, budgets and schedules as the file has them now, and send callbacks to its applications.

        Its other settings count from the next start on.

        Raises:
            ConfigError, StoreUnavailable: nothing was changed.
        """
        if settings.budgets and not self._directory.costs.known:
            raise ConfigError(
                f"{settings.source}: [[budgets]] need the price list, which is not installed.",
                hint="pip install 'trivet[worker]' has it.",
            )
        by = f"{self._name} from {settings.source}"
        with self._store.write() as connection:
            findings = registry.register(self._store, connection, settings.routes, by=by, serves=False)
            changed = budgets.register(self._store, connection, settings.budgets)
            scheduled = schedules.register(self._store, connection, settings.schedules)
        self._schedules.reload(settings)
        self._callbacks.reload(settings)
        for said in changed:
            log.warning("budget %s", said)
        for said in scheduled:
            log.info("schedule %s", said)
        for finding in findings:
            log.log(logging.INFO if finding.kind is Kind.CHANGED else logging.WARNING, "%s", finding.text)

    def stop(self) -> None:
        """Let `run` end soon. Safe to call from a signal handler."""
        self._stopping.set()
        self._wake.set()

    def _pass(self) -> None:
        if time.monotonic() >= self._due.housekeeping:
            self._due.housekeeping = time.monotonic() + HOUSEKEEPING_S
            # housekeeping first: it needs SQL alone
            for step in (self._housekeeping.run, self._restorer.run, self._prober.run, self._budgets.run):
                step()
                self._pulse.beat()
            if time.monotonic() >= self._due.reconcile:
                self._due.reconcile = time.monotonic() + RECONCILE_S
                self._restorer.reconcile()
                self._expire_overrides()
                self._pulse.beat()
        self._wake.clear()
        if self._dispatcher.run_once().more:
            return
        self._due.dispatch = time.monotonic() + APART_S
        if self._wake.wait(self._settings.dispatch.interval_s):
            self._stopping.wait(max(GATHER_S, self._due.dispatch - time.monotonic()))

    def _expire_overrides(self) -> None:
        with self._store.read() as connection:
            due = route_overrides.due(self._store, connection)
        if due:
            with self._store.write() as connection:
                route_overrides.expire(self._store, connection)

    def _tell_finished(self, jobs: Sequence[str], batches: Sequence[int]) -> None:
        with contextlib.suppress(redis.RedisError):  # waiting clients look by themselves
            publish_finished(self._redis, jobs, batches)

    def _guarded(self, work: Callable[[], None]) -> None:
        """Wait impairments out: log once that there is one, and once that it is over."""
        try:
            work()
        except StoreUnavailable as error:
            self._housekeeping.spare_leases()
            self._wait_out(DATABASE, str(error))
        except BrokerUnavailable as error:
            self._wait_out(BROKER, str(error))
        except redis.RedisError as error:
            self._wait_out(SHARED_STATE, unavailable_text(self._settings.redis_url, error))
        except Exception as error:  # a scheduler that runs on is worth more than a clean exit
            self._due.housekeeping = time.monotonic() + 3 * IMPAIRED_PAUSE_S  # whatever the fault, jobs are dispatched
            self._wait_out(FAULT, f"a fault of Trivet's own: {place_of(error)}")
        else:
            for kind in (DATABASE, BROKER, SHARED_STATE, FAULT):
                self._process_impairments.over(kind, "pass")

    def _wait_out(self, kind: str, why: str) -> None:
        self._process_impairments.note(kind, "pass", why)
        self._stopping.wait(IMPAIRED_PAUSE_S)

    def _listen(self) -> None:
        """Wake the loop when jobs come in or capacity becomes free, and the callbacks when jobs have ended.

        A lost notice costs one interval at most.
        """
        finished = FINISHED_CHANNEL.encode()
        while not self._stopping.is_set():
            try:
                with self._redis.pubsub(ignore_subscribe_messages=True) as subscription:  # type: ignore[no-untyped-call]
                    subscription.subscribe(WORK_CHANNEL, FINISHED_CHANNEL)
                    while not self._stopping.is_set():
                        notice = subscription.get_message(timeout=1.0)
                        if notice:
                            self._wake.set()
                        if notice and notice["channel"] == finished:
                            self._callbacks.wake()
            except redis.RedisError:
                self._stopping.wait(IMPAIRED_PAUSE_S)
