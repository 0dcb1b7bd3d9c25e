"""Estimates of the cost and duration of a run before it, for `trivet plan`. No database, no network, no clock.

`planner` is the entry point. `workload` has the work of a day, `terms` the scenarios and charges; `outlook` does the
arithmetic, `assumptions` says what it rests on. Whether a route may take a job, and which limits hold there, is asked of
`trivet_routing`: a plan and the scheduler decide by the same rules.
"""
