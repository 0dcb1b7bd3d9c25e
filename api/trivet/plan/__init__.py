"""Estimates of the cost and duration of a run before it, for `trivet plan`.

`workload` has the work of a day, `scenarios` the routes it may take, `charges` the costs of routes beside tokens;
`outlook` does the arithmetic, with `timing` for the limits. No database, no network, no clock.
"""
