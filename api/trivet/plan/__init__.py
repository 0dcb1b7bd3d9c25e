"""Estimates of the cost and duration of a run before it, for `trivet plan`.

`workload` says what is to be done in a day, `scenarios` over which routes, `charges` what routes cost beside tokens;
`outlook` does the arithmetic, with `timing` for the limits. No database, no network, no clock.
"""
