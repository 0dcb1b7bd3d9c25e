"""The operations API: routes, limits, health, events, batches, jobs, budgets, costs and retention of one Trivet.

    from trivet.admin import Admin

    with Admin() as admin:
        admin.budgets.raise_limit("team-search", Decimal(250))

Each group of `Admin` is one module. Methods return values; nothing here prints.
"""

from trivet.admin.admin import Admin
from trivet.admin.budget_status import BudgetStatus
from trivet.admin.budgets import BudgetList, Budgets, RaisedBudget

__all__ = ["Admin", "BudgetList", "BudgetStatus", "Budgets", "RaisedBudget"]
