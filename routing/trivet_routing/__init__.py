"""Routing: may this call be made, and where. Route choice, circuit breakers, rate limits, budgets, the response cache."""
