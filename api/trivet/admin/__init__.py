"""The operations API: routes, limits, health, budgets, batches and costs of one Trivet."""
