"""Rehearsals: a file of requests through the user's own configuration, over the simulator, with outages, on a scaled clock.

Everything but the providers is real: `rehearsal` starts the embedded broker, a scheduler and workers in a temporary folder
and is the entry point. `scaling` has the settings on the scaled clock, `pace` the choice of its speed, `outages` the failures
to rehearse, `report` what came of it.
"""
