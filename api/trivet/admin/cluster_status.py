"""The status of a cluster: its routes, processes and waiting jobs. Values; `cluster_reading.py` reads them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from trivet.admin.budgets import BudgetStatus
from trivet.client.blocked import BlockedReason
from trivet.client.impairments import Impairment, ImpairmentKind, Processes
from trivet_routing.limits import FORGOTTEN
from trivet_routing.liveness.process_impairments import IS_STOPPING, Announced
from trivet_routing.permits import Pace, Quota
from trivet_store.cluster.leases import Lease, Silent
from trivet_store.controls import Control
from trivet_store.events import Dropped
from trivet_store.jobs.deliveries import AppDeliveries
from trivet_store.ledger.spending import NOTHING, Spent
from trivet_store.reports.backlog import ClassBacklog, RouteBacklog
from trivet_tasks.config.route_overrides import Override
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.config.route_windows import RouteWindow
from trivet_tasks.latency import Latency
from trivet_tasks.states import RouteState


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A (route, model). Times are seconds; `since` counts from the epoch."""

    model: str
    """`*` where no job named a model yet: the route as a whole."""
    state: RouteState
    quota: Quota
    """Limits that the account sets the model, or the group of models it belongs to."""
    cause: str = ""
    since: float | None = None
    """Start of the state; None: not known."""
    wait_s: float = 0.0
    """Seconds until the next call may be made; 0 = now."""
    share: float = 1.0
    """The share of its work that it gets; below 1 while it recovers."""
    in_flight: int = 0
    """Calls under way."""
    places: int | None = None
    """Maximum calls in flight at present: `quota.max_concurrency`, or fewer."""
    requests: float | None = None
    """Calls that the minute limit allows now, a burst at most; None = nothing limits. The next two likewise."""
    input_tokens: float | None = None
    output_tokens: float | None = None
    per_minute: tuple[float | None, float | None, float | None] = (None, None, None)
    """Requests, input and output tokens per minute, as configured or learned; None = nothing limits."""
    calls: int = 0
    """Made within the last seconds (`health.window_s`)."""
    failed: int = 0
    """The failed ones among these calls."""
    paces: Mapping[Latency, Pace] = field(default_factory=dict)
    """Duration of recent calls, by latency class."""
    doubt: str = ""
    """Reason why a probe is to find out whether it still answers; empty = there is none."""

    @property
    def forgotten(self) -> bool:
        """True if calls are paused because the shared state was emptied."""
        return self.cause == FORGOTTEN

    @property
    def narrowed(self) -> bool:
        """True if it was found to bear fewer calls at once than are configured."""
        return self.places is not None and self.share >= 1 and self.places < self.quota.max_concurrency


@dataclass(frozen=True, slots=True)
class RouteStatus:
    """A route and the models it serves."""

    name: str
    settings: RouteSettings
    drained: bool
    known: bool
    """False: the configuration names it, but no scheduler or worker has registered it yet."""
    queued: int
    """Jobs dispatched to it and not claimed yet."""
    running: int
    slots: Mapping[str, int]
    """Maximum calls in flight of its living workers, by lane. A lane without workers is missing."""
    workers: Mapping[str, int]
    """Living worker processes that take its work, by lane."""
    models: tuple[ModelStatus, ...]
    drained_at: float | None = None
    """Time when it was drained, seconds since the epoch."""
    drained_why: str = ""
    window: RouteWindow | None = None
    """The time window that holds now, if any; `settings` have its weight and priority."""
    proven_at: float | None = None
    """Start of the newest call that it answered, a job's or a probe's, in seconds since the epoch. None: not known."""
    overrides: tuple[Override, ...] = ()
    """Limits that were set by hand; `settings` have them."""
    version_at: float | None = None
    """Time since which the version of its figures is in force, seconds since the epoch."""
    version_by: str = ""
    lacking: tuple[str, ...] = ()
    """Lanes in which no living worker takes its work, though they are to be served (`[worker] lanes`)."""
    scheduled: bool = True
    """True while a scheduler is alive that dispatches jobs to it."""
    spent: Spent = NOTHING
    """Cost of its calls of today (UTC) so far, USD."""
    usd_per_hour: Decimal = Decimal(0)
    """Its present spending, over the calls that ended lately."""

    def state_of(self, model: ModelStatus) -> str:
        """Return the word for the state of one of its models, the operator's and the workers' side included."""
        if self.drained:
            return RouteState.DRAINED
        if model.state == RouteState.UNKNOWN:
            return model.state
        if not self.slots:
            return RouteState.UNSERVED
        if model.state not in (RouteState.HEALTHY, RouteState.UNPROVEN):
            return model.state
        if not self.scheduled:
            return RouteState.UNSCHEDULED
        return f"{RouteState.UNSERVED} {self.lacking[0]}" if self.lacking else model.state


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """A Trivet at one moment: what `trivet routes` shows."""

    routes: tuple[RouteStatus, ...]
    outstanding: tuple[RouteBacklog, ...]
    waiting: tuple[ClassBacklog, ...]
    workers: tuple[Lease, ...]
    blocked: tuple[BlockedReason, ...]
    """Reasons why jobs wait, where no route takes them; empty while they move."""
    now: float
    """By the database's clock, seconds since the epoch."""
    announced: tuple[Announced, ...] = ()
    """Processes that announce in the shared state that they do no work."""
    budgets: tuple[BudgetStatus, ...] = ()
    schedulers: tuple[Lease, ...] = ()
    silent: tuple[Silent, ...] = ()
    """Processes whose lease ran out and that were not replaced."""
    impairments: tuple[Impairment, ...] = ()
    """Impairments of processes and servers."""
    dropped: tuple[Dropped, ...] = ()
    """Counters of messages and answers that were not acted on, since the installation began."""
    controls: tuple[Control, ...] = ()
    """Pauses and priorities that operators set."""
    callbacks: tuple[AppDeliveries, ...] = ()
    """Callbacks (`on_done=`) that are on their way, by Celery application."""

    @property
    def impairment(self) -> str | None:
        """Reason why the states are not known, if they are not: a server that cannot be used."""
        return next((one.text for one in self.impairments if one.kind is ImpairmentKind.SERVER), None)

    @property
    def idle(self) -> tuple[Announced, ...]:
        """Processes that do not work at the moment, by name: as their leases have it, and as they announce it."""
        return Processes(self.workers, self.schedulers).idle(self.announced)

    @property
    def stopping(self) -> tuple[Announced, ...]:
        """Processes that were asked to end: nothing is wrong with them."""
        return tuple(one for one in self.idle if one.impairment == IS_STOPPING)

    @property
    def held_up(self) -> bool:
        """Return whether something wrong blocks work; limits and budgets block it as intended."""
        return any(one.holds_up for one in self.impairments) or any(reason.wrong for reason in self.blocked)

    @property
    def impaired(self) -> tuple[tuple[str, str, str], ...]:
        """Return (worker, route, reason) for each route of which a living worker takes no work."""
        return tuple(
            (lease.worker, route, reason)
            for lease in self.workers
            if not lease.impairment
            for route, reason in sorted(lease.impaired.items())
        )
