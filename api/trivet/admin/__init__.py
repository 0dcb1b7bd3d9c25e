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
    from trivet.admin.batches import Batches, BatchStatus
    from trivet.admin.blocked import Blocked
    from trivet.admin.budget_status import BudgetStatus
    from trivet.admin.budgets import BudgetList, Budgets, RaisedBudget
    from trivet.admin.cache import Cache, CacheState, ClearedAnswers
    from trivet.admin.costs import CostOverview, CostReport, Costs, Repricing
    from trivet.admin.database import Database, Pruning, SchemaUpgrade, SchemaVersion
    from trivet.admin.jobs import JobLife, Jobs
    from trivet_routing.response_cache import CacheStats
    from trivet_store.jobs.batches import Progress
    from trivet_store.reports.backlog import BatchBacklog
    from trivet_store.reports.cost_savings import AnswerSaving, CacheSaving
    from trivet_store.reports.costs import CostRow, Span, Unpriced
    from trivet_store.reports.results import AttemptRow, JobRow, RetryRow
    from trivet_store.repricing import Tally

_MODULES = {
    "trivet.admin.admin": ("Admin",),
    "trivet.admin.batches": ("BatchStatus", "Batches"),
    "trivet.admin.blocked": ("Blocked",),
    "trivet.admin.budget_status": ("BudgetStatus",),
    "trivet.admin.budgets": ("BudgetList", "Budgets", "RaisedBudget"),
    "trivet.admin.cache": ("Cache", "CacheState", "ClearedAnswers"),
    "trivet.admin.costs": ("CostOverview", "CostReport", "Costs", "Repricing"),
    "trivet.admin.database": ("Database", "Pruning", "SchemaUpgrade", "SchemaVersion"),
    "trivet.admin.jobs": ("JobLife", "Jobs"),
    "trivet_routing.response_cache": ("CacheStats",),
    "trivet_store.jobs.batches": ("Progress",),
    "trivet_store.reports.backlog": ("BatchBacklog",),
    "trivet_store.reports.cost_savings": ("AnswerSaving", "CacheSaving"),
    "trivet_store.reports.costs": ("CostRow", "Span", "Unpriced"),
    "trivet_store.reports.results": ("AttemptRow", "JobRow", "RetryRow"),
    "trivet_store.repricing": ("Tally",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Admin",
    "AnswerSaving",
    "AttemptRow",
    "BatchBacklog",
    "BatchStatus",
    "Batches",
    "Blocked",
    "BudgetList",
    "BudgetStatus",
    "Budgets",
    "Cache",
    "CacheSaving",
    "CacheState",
    "CacheStats",
    "ClearedAnswers",
    "CostOverview",
    "CostReport",
    "CostRow",
    "Costs",
    "Database",
    "JobLife",
    "JobRow",
    "Jobs",
    "Progress",
    "Pruning",
    "RaisedBudget",
    "Repricing",
    "RetryRow",
    "SchemaUpgrade",
    "SchemaVersion",
    "Span",
    "Tally",
    "Unpriced",
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
