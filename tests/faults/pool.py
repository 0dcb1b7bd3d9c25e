"""The routes of the suite: some of its own for every test, each over a simulated provider of its own.

So no health, limit or fault of one test is met by another, and one running system serves them all. A test's routes lead
to different wires and carry the test's tag as a compliance fact; its jobs ask for that, so only these are eligible. Each
also carries its own name, for jobs that may go nowhere else. Two routes are enough for a failover; a test that needs the
third asks for it, because every route costs every decision of every test a little.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WIRES = ("anthropic", "bedrock", "vertex")
PLACES: Mapping[str, Mapping[str, Any]] = {
    "anthropic": {},
    "bedrock": {"region": "us-east-1"},
    "vertex": {"region": "global", "project": "simulated"},
}
"""Settings of a route of each wire; all at the same price."""

PROBE_S = 0.5
LIMITED_S = 0.5
STEP_S = 2.0
ATTEMPT_S = 1.5
SILENCE_S = 1.0
"""Time for which a streamed answer of class `deferred` may be silent."""

SECTIONS: Mapping[str, Mapping[str, Any]] = {
    "health": {"probe_interval_s": PROBE_S, "limited_backoff_s": LIMITED_S, "recovery_step_s": STEP_S, "idle_probe_s": 0},
    "dispatch": {"interval_s": 0.1},
    "worker": {"shutdown_grace_s": 1.0, "slots": 64},
    "cache": {"enabled": False},  # the same words, time and again
    # by priority, so that it is known which route is asked first
    "classes.realtime": {"order": "priority"},
    "classes.batch": {
        "order": "priority", "budget_s": 8, "attempt_timeout_s": ATTEMPT_S, "backoff_base_s": 0.1, "backoff_max_s": 0.5,
    },
    "classes.async": {"order": "priority", "budget_s": 30, "attempt_timeout_s": 10},
    "classes.deferred": {
        "order": "priority", "budget_s": 60, "attempt_timeout_s": 30,
        "first_token_timeout_s": SILENCE_S, "stall_timeout_s": SILENCE_S,
    },
}  # fmt: skip
"""Intervals short enough for a test; what is not named is as it comes."""


@dataclass(frozen=True)
class Shape:
    """Requirements of a test on its routes."""

    first: str = "anthropic"
    """The wire whose route is asked first; the others follow in the order of `WIRES`."""
    stream: bool = False
    legs: int = 2
    """Number of routes."""

    @property
    def order(self) -> tuple[str, ...]:
        """The wires in the order in which their routes are asked."""
        return (self.first, *(wire for wire in WIRES if wire != self.first))[: self.legs]


@dataclass(frozen=True)
class Names:
    """The routes of one test. A route's name is also that of its provider in the simulator."""

    tag: str
    shape: Shape

    @property
    def routes(self) -> tuple[str, ...]:
        """In the order in which they are asked."""
        return tuple(f"{self.tag}-{wire}" for wire in self.shape.order)


def wire_of(route: str) -> str:
    """The wire a route of the pool leads to."""
    return route.rpartition("-")[2]


def simulator_arguments(pool: Iterable[Names]) -> list[str]:
    """Options of the simulator that serves a pool."""
    extras = [word for names in pool for route in names.routes for word in ("--extra", f"{route}={wire_of(route)}")]
    return ["--latency-median", "0.03", "--seed", "1", *extras]


def write_config(
    path: Path,
    store_url: str,
    pool: Iterable[Names],
    urls: Mapping[str, str],
    *,
    sections: Mapping[str, Mapping[str, Any]] = SECTIONS,
    route_settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Write the configuration of a system that serves a pool.

    Args:
        store_url: the database; empty for SQLite beside the file.
        urls: by provider of the simulator, its base URL.
        sections: the tables beside `[store]` and the routes'.
        route_settings: by route, what to set beside what every route of a pool has.
    """
    key = path.with_suffix(".key")
    key.write_text("simulated-key\n", encoding="ascii")
    tables: dict[str, Mapping[str, Any]] = {"store": {"url": store_url}, **sections}
    for names in pool:
        for place, route in enumerate(names.routes, start=1):
            wire = wire_of(route)
            tables[f"routes.{route}"] = {
                "provider": wire,
                **PLACES[wire],
                "base_url": urls[route],
                "api_key": f"file:{key.absolute()}",
                "compliance": [names.tag, route],
                "priority": place,
                **({"stream": True} if names.shape.stream else {}),
                **(route_settings or {}).get(route, {}),
            }
    lines = [
        line
        for table, values in tables.items()
        for line in (f"[{table}]", *(f"{name} = {json.dumps(value)}" for name, value in values.items()))
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
