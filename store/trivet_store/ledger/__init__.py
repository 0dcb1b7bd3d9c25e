"""Counters of money: spending, budgets, and savings by caches."""
