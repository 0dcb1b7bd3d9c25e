"""Counters of money: what was spent, what budgets allow, what the caches saved."""
