"""The stage: how fast the simulated providers are, what the routes allow, and what else the demo sets.

The routes' limits are what makes the run last: long enough to see an outage and the recovery, and no longer. They grow
and shrink with the number of documents, within what two cores can do.
"""

from pathlib import Path
from typing import Any

from trivet.local.local_simulator import Simulation
from trivet_tasks.latency import Lane

MODEL = "claude-haiku-4-5"
MAX_TOKENS = 120
BATCH = "demo"
ANTHROPIC, BEDROCK, VERTEX = "anthropic", "bedrock-us-east-1", "vertex-global"
"""The routes, by their names in `trivet.local.simulated.ROUTES`."""

_CONFIG = """\
# Written by `trivet demo`. Probes and steps are shorter than the defaults, so that less than a minute shows them all.
[health]
probe_interval_s = 1.5
recovery_step_s = 2

[worker]
shutdown_grace_s = 2
"""
_PER_MINUTE = {ANTHROPIC: 1_560, BEDROCK: 1_320, VERTEX: 1_320}
"""Requests for a run of 1,000 documents; with one route of three left, about 25 s altogether."""
_CONCURRENCY = {ANTHROPIC: 24, BEDROCK: 20, VERTEX: 16}
"""Calls in flight: about what these rates need at the simulator's latency."""
_SLOWEST, _FASTEST = 0.25, 4.0


def write_config(folder: Path) -> Path:
    """Write the demo's own settings; the simulated routes are added to them."""
    path = folder / "trivet.toml"
    path.write_text(_CONFIG, encoding="utf-8")
    return path


def simulation(jobs: int) -> Simulation:
    """Three providers with a latency of 0.35 s at the median and 1 s at p95, and routes with limits."""
    pace = min(_FASTEST, max(_SLOWEST, jobs / 1_000))
    limits: dict[str, dict[str, Any]] = {
        route: {
            "requests_per_minute": round(_PER_MINUTE[route] * pace),
            "max_concurrency": max(4, round(_CONCURRENCY[route] * pace)),
        }
        for route in _PER_MINUTE
    }
    return Simulation(
        arguments=("--latency-median", "0.35", "--latency-p95", "1.0"),
        route_settings=limits,
        sections={"worker": {"lanes": [Lane.BULK.value]}},
    )
