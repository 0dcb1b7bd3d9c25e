"""The operations API: routes, limits, health, events, batches, jobs, budgets, costs and retention of one Trivet.

    from trivet.admin import Admin

    with Admin() as admin:
        admin.budgets.raise_limit("team-search", Decimal(250))

Each group of `Admin` is one module. Methods return values; nothing here prints.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trivet.admin.admin import Admin
    from trivet.admin.budgets import BudgetList, Budgets, BudgetStatus, RaisedBudget
    from trivet.admin.cache import Cache, CacheState, ClearedAnswers
    from trivet.admin.cluster_status import ClusterStatus, ModelStatus, RouteStatus
    from trivet.admin.controls import ControlChange, Controls
    from trivet.admin.costs import AnswerLength, CostOverview, CostReport, Costs, Repricing
    from trivet.admin.happenings import Happening
    from trivet.admin.health import Backlog, Events, FoldedEvent, Health, folded
    from trivet.admin.installation import Configuration, Database, DatabaseState, Pruning, SchemaUpgrade, SchemaVersion
    from trivet.admin.jobs import AttemptBook, Attempts, Batches, BatchStatus, JobLife, Jobs
    from trivet.admin.key_budgets import BudgetShortfall, KeyBudgets
    from trivet.admin.keys import FoundKey, KeyList, Keys, NewKey
    from trivet.admin.route_measure import MeasurementInterrupted, RouteMeasurement, Spread
    from trivet.admin.route_probe import ProbeResult
    from trivet.admin.routes import DrainedRoute, KnownRoute, RemovedRoute, RestoredRoute, RouteLimits, Routes
    from trivet.admin.schedules import ScheduleList, Schedules
    from trivet.client.blocked import Blocked, BlockedKind, BlockedReason, pause_notes
    from trivet.client.impairments import Impairment, ImpairmentKind, idle_words
    from trivet_routing.liveness.process_impairments import Announced
    from trivet_routing.permits import BreakerView, Pace, RouteUse
    from trivet_routing.response_cache import CacheStats
    from trivet_store.cluster.leases import Lease
    from trivet_store.cluster.registry import Applied, Redefinition
    from trivet_store.controls import Control, ControlKind
    from trivet_store.events import Drop, Dropped, Event
    from trivet_store.gateway_keys import GatewayKey
    from trivet_store.jobs.batches import Progress
    from trivet_store.jobs.deliveries import AppDeliveries
    from trivet_store.reports.attempts import AttemptFate, JobCount, RouteAttempts
    from trivet_store.reports.backlog import BatchBacklog, ClassBacklog, RouteBacklog
    from trivet_store.reports.batch_ends import BatchEnds
    from trivet_store.reports.callbacks import CallbackRow
    from trivet_store.reports.cost_savings import AnswerSaving, CacheSaving
    from trivet_store.reports.costs import CostRow, Span, Unpriced
    from trivet_store.reports.results import AttemptRow, JobEnd, JobRow, RetryRow
    from trivet_store.reports.spend_rate import SpendRate
    from trivet_store.repricing import Tally
    from trivet_store.schedule_runs import Run
    from trivet_store.schedules import Schedule

_MODULES = {
    "trivet.admin.admin": ("Admin",),
    "trivet.client.blocked": ("Blocked", "BlockedKind", "BlockedReason", "pause_notes"),
    "trivet.admin.budgets": ("BudgetList", "BudgetStatus", "Budgets", "RaisedBudget"),
    "trivet.admin.cache": ("Cache", "CacheState", "ClearedAnswers"),
    "trivet.admin.cluster_status": ("ClusterStatus", "ModelStatus", "RouteStatus"),
    "trivet.admin.controls": ("ControlChange", "Controls"),
    "trivet.admin.costs": ("AnswerLength", "CostOverview", "CostReport", "Costs", "Repricing"),
    "trivet.admin.happenings": ("Happening",),
    "trivet.admin.health": ("Backlog", "Events", "FoldedEvent", "Health", "folded"),
    "trivet.client.impairments": ("Impairment", "ImpairmentKind", "idle_words"),
    "trivet.admin.installation": (
        "Configuration",
        "Database",
        "DatabaseState",
        "Pruning",
        "SchemaUpgrade",
        "SchemaVersion",
    ),
    "trivet.admin.jobs": ("AttemptBook", "Attempts", "BatchStatus", "Batches", "JobLife", "Jobs"),
    "trivet.admin.key_budgets": ("BudgetShortfall", "KeyBudgets"),
    "trivet.admin.keys": ("FoundKey", "KeyList", "Keys", "NewKey"),
    "trivet.admin.route_measure": ("MeasurementInterrupted", "RouteMeasurement", "Spread"),
    "trivet.admin.route_probe": ("ProbeResult",),
    "trivet.admin.routes": ("DrainedRoute", "KnownRoute", "RemovedRoute", "RestoredRoute", "RouteLimits", "Routes"),
    "trivet.admin.schedules": ("ScheduleList", "Schedules"),
    "trivet_routing.liveness.process_impairments": ("Announced",),
    "trivet_routing.permits": ("BreakerView", "Pace", "RouteUse"),
    "trivet_routing.response_cache": ("CacheStats",),
    "trivet_store.cluster.leases": ("Lease",),
    "trivet_store.cluster.registry": ("Applied", "Redefinition"),
    "trivet_store.gateway_keys": ("GatewayKey",),
    "trivet_store.jobs.batches": ("Progress",),
    "trivet_store.jobs.deliveries": ("AppDeliveries",),
    "trivet_store.controls": ("Control", "ControlKind"),
    "trivet_store.events": ("Drop", "Dropped", "Event"),
    "trivet_store.reports.attempts": ("AttemptFate", "JobCount", "RouteAttempts"),
    "trivet_store.reports.backlog": ("BatchBacklog", "ClassBacklog", "RouteBacklog"),
    "trivet_store.reports.batch_ends": ("BatchEnds",),
    "trivet_store.reports.callbacks": ("CallbackRow",),
    "trivet_store.reports.cost_savings": ("AnswerSaving", "CacheSaving"),
    "trivet_store.reports.costs": ("CostRow", "Span", "Unpriced"),
    "trivet_store.reports.results": ("AttemptRow", "JobEnd", "JobRow", "RetryRow"),
    "trivet_store.reports.spend_rate": ("SpendRate",),
    "trivet_store.repricing": ("Tally",),
    "trivet_store.schedule_runs": ("Run",),
    "trivet_store.schedules": ("Schedule",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Admin",
    "Announced",
    "AnswerLength",
    "AnswerSaving",
    "AppDeliveries",
    "Applied",
    "AttemptBook",
    "AttemptFate",
    "AttemptRow",
    "Attempts",
    "Backlog",
    "BatchBacklog",
    "BatchEnds",
    "BatchStatus",
    "Batches",
    "Blocked",
    "BlockedKind",
    "BlockedReason",
    "BreakerView",
    "BudgetList",
    "BudgetShortfall",
    "BudgetStatus",
    "Budgets",
    "Cache",
    "CacheSaving",
    "CacheState",
    "CacheStats",
    "CallbackRow",
    "ClassBacklog",
    "ClearedAnswers",
    "ClusterStatus",
    "Configuration",
    "Control",
    "ControlChange",
    "ControlKind",
    "Controls",
    "CostOverview",
    "CostReport",
    "CostRow",
    "Costs",
    "Database",
    "DatabaseState",
    "DrainedRoute",
    "Drop",
    "Dropped",
    "Event",
    "Events",
    "FoldedEvent",
    "FoundKey",
    "GatewayKey",
    "Happening",
    "Health",
    "Impairment",
    "ImpairmentKind",
    "JobCount",
    "JobEnd",
    "JobLife",
    "JobRow",
    "Jobs",
    "KeyBudgets",
    "KeyList",
    "Keys",
    "KnownRoute",
    "Lease",
    "MeasurementInterrupted",
    "ModelStatus",
    "NewKey",
    "Pace",
    "ProbeResult",
    "Progress",
    "Pruning",
    "RaisedBudget",
    "Redefinition",
    "RemovedRoute",
    "Repricing",
    "RestoredRoute",
    "RetryRow",
    "RouteAttempts",
    "RouteBacklog",
    "RouteLimits",
    "RouteMeasurement",
    "RouteStatus",
    "RouteUse",
    "Routes",
    "Run",
    "Schedule",
    "ScheduleList",
    "Schedules",
    "SchemaUpgrade",
    "SchemaVersion",
    "Span",
    "SpendRate",
    "Spread",
    "Tally",
    "Unpriced",
    "folded",
    "idle_words",
    "pause_notes",
]


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: a command that lists jobs needs no price lists."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
