"""The simulator as one part of a Trivet on this machine: its ports, its command, the configuration that leads to it.

Its ports are chosen before it starts and kept in `.trivet/simulator.json`: started again, after a crash or the next
day, it comes back where the routes look for it. `trivet up --simulate`, the demo, rehearsals and `trivet.testing` use it.
"""

import contextlib
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trivet.config.effective import table_lines, toml_key
from trivet_simulator.options import WIRE_NAMES, Endpoints, base_url
from trivet_tasks.config.settings import Settings

ROUTES: Mapping[str, Mapping[str, Any]] = {
    "anthropic": {"provider": "anthropic"},
    "bedrock-us-east-1": {"provider": "bedrock", "region": "us-east-1"},
    "vertex-global": {"provider": "vertex", "region": "global", "project": "simulated"},
}
"""The three routes of a simulated Trivet, all at the same price."""
CONFIG_NAME = "simulated.toml"
ENDPOINTS_NAME = "simulator.json"
_CONTROL = "control"
_HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Simulation:
    """Settings of the simulated providers."""

    arguments: Sequence[str] = ("--latency-median", "0.3", "--latency-p95", "0.9")
    """Options of `trivet simulate`, without ports."""
    route_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By route of `ROUTES`: settings to add, e.g. limits."""
    sections: Mapping[str, Mapping[str, Any] | Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """Further tables of the configuration, e.g. `{"health": {"probe_interval_s": 2}}`."""
    routes: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: ROUTES)
    """The routes by name, each at the simulated provider of its kind, or at one of its own (`wires`)."""
    wires: Mapping[str, str] = field(default_factory=dict)
    """By route: the wire of a simulated provider that is the route's own, so that it can fail alone (`own_provider`)."""


def own_provider(route: str) -> str:
    """Return the name of a route's own provider in the simulator."""
    return f"route-{route}"


def choose_endpoints(data_dir: Path, wires: Mapping[str, str] = {}) -> Endpoints:
    """Return where the simulator of this data directory will serve: on its earlier ports where they are free.

    Args:
        wires: as in `Simulation`.
    """
    kinds = {**{wire: wire for wire in WIRE_NAMES}, **{own_provider(name): wire for name, wire in wires.items()}}
    ports = free_ports(_ports_before(data_dir / ENDPOINTS_NAME), kinds)
    return Endpoints.on(
        f"http://{_HOST}:{ports.pop(_CONTROL)}", {name: base_url(kinds[name], ports[name]) for name in ports}
    )


def simulator_arguments(simulation: Simulation, data_dir: Path, endpoints: Endpoints) -> list[str]:
    """The arguments of `trivet` that serve this simulation there."""
    urls = {**{wire: endpoints.providers[wire] for wire in WIRE_NAMES}, _CONTROL: endpoints.control}
    numbers = [word for name, url in urls.items() for word in (f"--{name}-port", str(urlsplit(url).port))]
    for route, wire in simulation.wires.items():
        name = own_provider(route)
        numbers += ["--extra", f"{name}={wire}:{urlsplit(endpoints.providers[name]).port}"]
    return ["simulate", *numbers, "--endpoints-file", str(data_dir / ENDPOINTS_NAME), *simulation.arguments]


def write_simulated_config(simulation: Simulation, settings: Settings, data_dir: Path, endpoints: Endpoints) -> Path:
    """Write the configuration of a simulated Trivet: the settings there are, and routes that lead to the simulator.

    The URLs of `settings` are written out, so that it means the same store and broker from every folder.
    """
    sections: dict[str, Mapping[str, Any] | Sequence[Mapping[str, Any]]] = {
        "store": {
            **settings.store.model_dump(exclude={"url"}, exclude_unset=True, exclude_none=True),
            "url": settings.store_url,
        },
        "broker": {"url": settings.broker_url},
        "redis": {"url": settings.redis_url},
        **_tuned(settings),
        **simulation.sections,
    }
    path = data_dir / CONFIG_NAME
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)  # a URL may hold a password
    return write_config(
        path, endpoints, route_settings=simulation.route_settings, sections=sections, routes=simulation.routes
    )


def write_config(
    path: Path,
    endpoints: Endpoints,
    *,
    route_settings: Mapping[str, Mapping[str, Any]] | None = None,
    sections: Mapping[str, Mapping[str, Any] | Sequence[Mapping[str, Any]]] | None = None,
    routes: Mapping[str, Mapping[str, Any]] = ROUTES,
) -> Path:
    """Write a configuration whose routes lead to the simulator, and a made-up key beside it.

    Args:
        path: the file; its folder is made, private.
        route_settings: by route, settings to add, e.g. limits.
        sections: further tables by name, e.g. `{"health": {"probe_interval_s": 2}}`; a list of them is an array of tables.
        routes: the routes by name.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = path.with_suffix(".key")
    key.write_text("simulated-key\n", encoding="ascii")
    tables: dict[str, Mapping[str, Any] | Sequence[Mapping[str, Any]]] = dict(sections or {})
    for name, route in routes.items():
        url = endpoints.providers.get(own_provider(name)) or endpoints.providers[str(route["provider"])]
        wire = {"base_url": url, "api_key": f"file:{key.absolute()}"}
        tables[f"routes.{toml_key(name)}"] = {**route, **wire, **(route_settings or {}).get(name, {})}
    lines = ["# Written by Trivet: these routes lead to the simulator on this machine, not to a provider."]
    for table, values in tables.items():
        if isinstance(values, Mapping):
            lines += table_lines(table, values)
        else:
            lines += [line for entries in values for line in table_lines(f"[{table}]", entries)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@contextlib.contextmanager
def without_settings() -> Iterator[None]:
    """Hide every `TRIVET_*` variable of this process, and so of the processes started inside."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("TRIVET_")}
    try:
        yield
    finally:
        os.environ.update(hidden)


def free_ports(preferred: Mapping[str, int], names: Iterable[str]) -> dict[str, int]:
    """A free port of 127.0.0.1 for each provider and the control port: the preferred one where it can be had."""
    with contextlib.ExitStack() as held:
        # all are held until the last is found, so that no two are the same
        return {name: _bound(preferred.get(name, 0), held) for name in (*names, _CONTROL)}


def _bound(preferred: int, held: contextlib.ExitStack) -> int:
    for number in (preferred, 0):
        sock = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the simulator will
        with contextlib.suppress(OSError):
            sock.bind((_HOST, number))
            return int(sock.getsockname()[1])
    raise AssertionError("the system gave no free port")


def _ports_before(path: Path) -> dict[str, int]:
    try:
        before = Endpoints.from_json(path.read_bytes())
        urls = {**before.providers, _CONTROL: before.control}
        return {name: urlsplit(url).port or 0 for name, url in urls.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # none yet, or not ours: any port will do


def _tuned(settings: Settings) -> dict[str, Mapping[str, Any] | Sequence[Mapping[str, Any]]]:
    """Return the settings of the sections that are neither routes nor URLs, as tables of TOML."""
    given = settings.model_dump(
        mode="json", exclude={"store", "broker", "redis", "routes", "budgets", "schedules"}, exclude_unset=True
    )
    classes = {f"classes.{name}": values for name, values in given.pop("classes", {}).items()}
    apps = {f"celery_apps.{toml_key(name)}": values for name, values in given.pop("celery_apps", {}).items()}
    # None cannot be written in TOML; where it is allowed, it is the default
    tables = {
        table: {k: v for k, v in values.items() if v is not None}
        for table, values in {**given, **classes, **apps}.items()
    }
    budgets = [budget.definition() for budget in settings.budgets]
    # this configuration lies elsewhere, and relative paths count from it; none is due by itself: its files are real
    schedules = [{**schedule.definition(settings.base_dir), "enabled": False} for schedule in settings.schedules]
    arrays = {"budgets": budgets, "schedules": schedules}
    return {**tables, **{name: array for name, array in arrays.items() if array}}
