"""Parts of one worker process, started and stopped in order."""

import logging
from collections.abc import Mapping, Sequence

from celery import Celery

from trivet_routing.answer_publishing import AnswerPublisher
from trivet_routing.answer_stream import StreamSeal
from trivet_routing.limits import Limits
from trivet_routing.liveness.heartbeat import Holder
from trivet_routing.liveness.monitors import DependencyMonitor, Pulse, Pulses
from trivet_routing.liveness.process_impairments import IS_STOPPING, STALLED, STOPPING, ProcessImpairments
from trivet_routing.response_cache import AnswerSeal, ResponseCache
from trivet_routing.route_directory import RouteDirectory
from trivet_store.cluster.leases import ISOLATED, WORKER
from trivet_store.database.engine import Store
from trivet_store.migrations.schema_version import ensure
from trivet_tasks.config.installation_key import read_key
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.config.settings import Settings
from trivet_tasks.latency import Lane
from trivet_tasks.messages import Chunk
from trivet_tasks.shared_state import connect, refuse_cluster
from trivet_worker.run.cached import Cached
from trivet_worker.run.calls import STALLED_S, Calls
from trivet_worker.run.chunk_run import ChunkRunner
from trivet_worker.run.context import WorkerContext, origin_of
from trivet_worker.run.fork_server import ForkServer
from trivet_worker.run.hedging import Hedger
from trivet_worker.run.isolation import Isolation
from trivet_worker.run.lease_keeper import LeaseKeeper
from trivet_worker.run.local_faults import LocalFaults, Witness
from trivet_worker.run.pricing import Pricing
from trivet_worker.run.process_state import Drops, InProgress, RouteImpairments, Slots
from trivet_worker.run.recorder import Recorder
from trivet_worker.run.served_routes import ServedRoutes

log = logging.getLogger("trivet.worker")

GATHER_S = {Lane.REALTIME: 0.0, Lane.BULK: 0.01, ISOLATED: 0.0}
"""Time for which the recorder waits for more calls to finish before it commits, by lane, in seconds."""


class Runtime:
    """One worker process: `start`, then `run` from any thread, then `begin_stop`, `drop_calls` and `close`."""

    def __init__(
        self,
        settings: Settings,
        app: Celery,
        *,
        worker: str,
        lane: str,
        routes: Sequence[str],
        drops: Drops,
        forks: ForkServer | None = None,
        origin: str = "",
    ) -> None:
        """Prepare the process; nothing is started, and no connection made.

        Args:
            origin: of the worker for which this process runs a quarantined job; this process's own when not given.
            forks: forks the processes in which quarantined jobs run; None in such a process.

        Raises:
            ConfigError: the key that signs cached answers is needed, and not there.
        """
        origin = origin or origin_of(settings)
        context = self._context = self._make_context(settings, worker, lane, routes, drops, origin)
        hedger = Hedger(context, lambda hedge: self._calls.join(hedge))
        places = {name: settings.routes[name] for name in routes}
        key = read_key(settings)
        publisher = None if key is None else AnswerPublisher(settings.redis_url, StreamSeal(key))
        self._calls = Calls(places, lambda result: self._recorder.put(result), hedger.ask, publisher)
        # a process for isolated jobs steers nothing: what it found wrong would stay unknown to its worker, which
        # would send it the same job again
        self._local_faults = None if lane == ISOLATED else self._make_local_faults(places)
        seal = None if key is None else AnswerSeal(key, context.store.clock.reckoned)
        cached = Cached(context, ResponseCache(context.client, settings, seal))
        self._recorder = Recorder(
            context,
            app,
            cached,
            gather_s=GATHER_S[lane],
            on_released=(lambda *_: None) if self._local_faults is None else self._local_faults.observe,
        )
        holder = Holder(worker, WORKER, lane, routes, settings.worker.slots, origin)
        self._lease = LeaseKeeper(context, holder, self._calls.cancel)
        self.consumer_pulse = Pulse("Its Celery consumer", STALLED_S, needs_broker=True)
        """Beats with each turn of the consumer's loop."""
        pulses = [self._calls.pulse, *([] if forks is None else [self.consumer_pulse])]
        self._pulses = Pulses(context.process_impairments, *pulses, on_change=self._lease.beat_soon)
        self._monitor = DependencyMonitor(
            context.store,
            settings,
            context.process_impairments,
            process=worker,
            part=WORKER,
            look_also=self._pulses.look,
        )
        self._forks = forks
        self._isolation = None if forks is None else Isolation(context, forks)
        self._chunks = ChunkRunner(context, self._calls, self._recorder, self._lease, hedger, self._isolation, cached)

    def _make_context(
        self, settings: Settings, worker: str, lane: str, routes: Sequence[str], drops: Drops, origin: str
    ) -> WorkerContext:
        store = Store.of(settings, yields=lane == Lane.BULK)
        client = connect(settings.redis_url)
        directory = RouteDirectory(store, Limits(client, settings.health, origin))
        impairments = RouteImpairments(log)
        served = ServedRoutes(
            store,
            {name: settings.routes[name] for name in routes},
            impairments,
            by=f"worker {worker} from {settings.source}",
            defines=lane != ISOLATED,
            lease_id=lambda: self._lease.id,
            on_change=lambda: self._lease.beat_soon(),
        )
        return WorkerContext(
            settings=settings,
            store=store,
            client=client,
            directory=directory,
            served=served,
            witness=Witness(directory, origin, impairments),
            pricing=Pricing(directory.costs, store.clock.reckoned),
            slots=Slots(settings.worker.slots),
            in_progress=InProgress(),
            drops=drops,
            impairments=impairments,
            process_impairments=ProcessImpairments(log, "no work is taken"),
        )

    def _make_local_faults(self, places: Mapping[str, RouteSettings]) -> LocalFaults:
        return LocalFaults(
            places,
            self._calls,
            self._context.impairments,
            self._context.witness,
            self._context.settings.health,
            on_change=lambda: self._lease.beat_soon(),
        )

    def start(self) -> None:
        """Check the schema, make the routes known, open the lease.

        Raises:
            StoreError, ConfigError: before anything was started.
        """
        if self._forks is not None:  # the process that forked this one has asked
            refuse_cluster(self._context.settings)
        ensure(self._context.store)
        self._context.served.register()
        self._context.pricing.warm()
        self._calls.start()
        if self._local_faults is not None:
            self._local_faults.start()
        self._recorder.start()
        self._lease.start()
        self._context.served.start()
        self._pulses.start()
        self._monitor.start()

    @property
    def takes_work(self) -> bool:
        """Return whether a message may be taken now."""
        return self._context.process_impairments.text is None

    def consumer_moves(self) -> None:
        """Note that Celery's event loop turns: it is stalled no more."""
        self.consumer_pulse.beat()
        self._context.process_impairments.over(STALLED, self.consumer_pulse.what)

    def takes_route(self, route: str) -> bool:
        """Return whether a message of the route may be taken now."""
        return self.takes_work and self._context.impairments.of(route) is None

    @property
    def idle(self) -> bool:
        """Return whether every job taken is recorded or back in waiting."""
        return self._chunks.running == 0 and self._context.slots.in_use == 0

    @property
    def in_hand(self) -> int:
        """Number of calls under way, and of finished ones not yet recorded."""
        return self._context.slots.in_use

    def run(self, chunk: Chunk) -> int:
        """Run one chunk; blocks until it is recorded. Returns the number of calls made."""
        return self._chunks.run(chunk)

    def reload(self, settings: Settings) -> None:
        """Apply the routes as the file has them now. Raises StoreUnavailable when they cannot be registered."""
        self._context.served.reload(settings)
        self.look_again()

    def look_again(self) -> None:
        """Look for credentials and test the way to impaired routes now, rather than in their time."""
        if self._local_faults is not None:
            self._local_faults.look_now()

    def begin_stop(self) -> None:
        """Take no new work from now on, and report that. Calls under way go on."""
        self._chunks.stopping.set()
        if self._isolation is not None:
            self._isolation.begin_stop()
        self._context.process_impairments.note(STOPPING, "signal", IS_STOPPING)
        self._lease.beat_soon()

    def drop_calls(self) -> None:
        """Drop the calls under way; their jobs wait again, their costs are booked as estimates."""
        self._calls.cancel_all()
        if self._isolation is not None:
            self._isolation.drop_calls()

    def wait_for_forks(self, within_s: float) -> None:
        """Wait, after `close`, until the fork server is gone."""
        if self._forks is not None:
            self._forks.wait(within_s)

    def close(self) -> int:
        """Release the lease, as the last step. Returns the number of jobs still held; they wait again.

        Raises:
            StoreUnavailable: they are rescued when the lease runs out.
        """
        self._monitor.close()
        self._context.served.close()
        if self._local_faults is not None:
            self._local_faults.close()
        try:
            return self._lease.close()
        finally:
            if self._forks is not None:
                self._forks.close()
