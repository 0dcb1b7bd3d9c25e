"""The operations API: routes, limits, health, events, batches, jobs, budgets, costs and retention of one Trivet.

    from trivet.admin import Admin

    with Admin() as admin:
        admin.budgets.raise_limit("team-search", Decimal(250))

Each group of `Admin` is one module. Methods return values; nothing here prints.
"""

from trivet.admin.admin import Admin
from trivet.admin.backlog import Backlog
from trivet.admin.blockage import Blockage
from trivet.admin.blocked_reason import BlockedKind, BlockedReason
from trivet.admin.budget_status import BudgetStatus
from trivet.admin.budgets import BudgetList, Budgets, RaisedBudget
from trivet.admin.cluster_status import ClusterStatus, ModelStatus, RouteStatus
from trivet.admin.configuration import Configuration, DatabaseState
from trivet.admin.events import Events, FoldedEvent, folded
from trivet.admin.health import Health
from trivet.admin.impairments import Impairment, ImpairmentKind, idle_words
from trivet.admin.route_limits import RouteLimits
from trivet.admin.route_probe import ProbeResult
from trivet.admin.routes import DrainedRoute, RemovedRoute, RestoredRoute, Routes
from trivet_routing.liveness.troubles import Announced
from trivet_routing.permits import Pace, RouteUse
from trivet_store.fleet.health import Event
from trivet_store.fleet.leases import Lease
from trivet_store.fleet.registry import Applied, Redefinition
from trivet_store.jobs.dropped import Drop, Dropped
from trivet_store.reports.backlog import BatchBacklog, ClassBacklog, RouteBacklog

__all__ = [
    "Admin",
    "Announced",
    "Applied",
    "Backlog",
    "BatchBacklog",
    "Blockage",
    "BlockedKind",
    "BlockedReason",
    "BudgetList",
    "BudgetStatus",
    "Budgets",
    "ClassBacklog",
    "ClusterStatus",
    "Configuration",
    "DatabaseState",
    "DrainedRoute",
    "Drop",
    "Dropped",
    "Event",
    "Events",
    "FoldedEvent",
    "Health",
    "Impairment",
    "ImpairmentKind",
    "Lease",
    "ModelStatus",
    "Pace",
    "ProbeResult",
    "RaisedBudget",
    "Redefinition",
    "RemovedRoute",
    "RestoredRoute",
    "RouteBacklog",
    "RouteLimits",
    "RouteStatus",
    "RouteUse",
    "Routes",
    "folded",
    "idle_words",
]
