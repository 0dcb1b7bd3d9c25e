"""Common parts of benchmarks of a whole Trivet: one over the simulator, the machine's facts, the results' files."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import orjson

from trivet import Client
from trivet.local.local_simulator import Simulation
from trivet.local.local_trivet import LocalTrivet
from trivet_simulator import Control
from trivet_simulator.options import Endpoints
from trivet_tasks.config.settings import Settings, load_settings

READY_S = 120.0
RESULTS = Path(__file__).parent / "results"
"""Not under version control: figures belong to the machine they were measured on."""


@dataclass(frozen=True)
class Running:
    """A Trivet that runs, a client of it, and its simulator."""

    client: Client
    simulator: Control
    endpoints: Endpoints
    settings: Settings
    local: LocalTrivet


@contextlib.contextmanager
def running(
    *,
    workers: int,
    simulator: tuple[str, ...] = (),
    route_settings: Mapping[str, Mapping[str, Any]] | None = None,
    sections: Mapping[str, Mapping[str, Any]] | None = None,
) -> Iterator[Running]:
    """Start broker, simulator, scheduler and so many bulk worker processes in a temporary folder; stop them at the end.

    Everything not given has its default, unlike in `trivet.testing`, whose settings make tests short.

    Args:
        workers: processes of the bulk lane. None serves the realtime lane: the benchmarks send no realtime job.
        simulator: options of `trivet simulate`.
        route_settings: by route of `trivet.local.local_simulator.ROUTES`, settings to add.
        sections: further tables of the configuration.
    """
    with tempfile.TemporaryDirectory(prefix="trivet-bench-") as folder:
        start = Path(folder) / "trivet.toml"
        start.touch()
        simulation = Simulation(simulator, route_settings or {}, sections or {})
        settings = load_settings(start)
        with LocalTrivet(settings, config_path=start, workers=workers, lanes=("bulk",), simulation=simulation) as local:
            local.wait_ready(READY_S)
            assert local.simulator is not None
            with Client(settings=local.settings) as client:
                yield Running(client, Control(local.simulator.control), local.simulator, local.settings, local)


def machine(**versions: str) -> dict[str, Any]:
    """Machine and versions that the figures were measured on."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "trivet": metadata.version("trivet"),
        **versions,
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "command": " ".join(["python", *sys.argv]),
    }


def save(name: str, document: Mapping[str, Any]) -> Path:
    """Write the result of a run over that of the one before; returns where."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
    return path
