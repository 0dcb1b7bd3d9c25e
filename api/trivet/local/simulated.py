"""Configurations whose routes lead to the simulator: for `trivet up --simulate`, the demo and `trivet.testing`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

ROUTES: Mapping[str, Mapping[str, Any]] = {
    "anthropic": {"provider": "anthropic"},
    "bedrock-us-east-1": {"provider": "bedrock", "region": "us-east-1"},
    "vertex-global": {"provider": "vertex", "region": "global", "project": "simulated"},
}
"""The three routes of a simulated Trivet, all at the same price."""


class Endpoints(Protocol):
    """The simulator's base URL for each wire."""

    @property
    def anthropic(self) -> str: ...  # noqa: D102
    @property
    def bedrock(self) -> str: ...  # noqa: D102
    @property
    def vertex(self) -> str: ...  # noqa: D102


def write_config(
    path: Path,
    endpoints: Endpoints,
    *,
    route_settings: Mapping[str, Mapping[str, Any]] | None = None,
    sections: Mapping[str, Mapping[str, Any] | Sequence[Mapping[str, Any]]] | None = None,
) -> Path:
    """Write a configuration whose routes lead to the simulator, and a made-up key beside it.

    Args:
        path: the file; its folder is made, private.
        route_settings: by route, settings to add, e.g. limits.
        sections: further tables by name, e.g. `{"health": {"probe_interval_s": 2}}`; a list of them is an array of tables.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = path.with_suffix(".key")
    key.write_text("simulated-key\n", encoding="ascii")
    tables: dict[str, Mapping[str, Any] | Sequence[Mapping[str, Any]]] = dict(sections or {})
    for name, route in ROUTES.items():
        wire = {"base_url": getattr(endpoints, str(route["provider"])), "api_key": f"file:{key.absolute()}"}
        tables[f"routes.{name}"] = {**route, **wire, **(route_settings or {}).get(name, {})}
    lines = ["# Written by Trivet: these routes lead to the simulator on this machine, not to a provider."]
    for table, values in tables.items():
        single = isinstance(values, Mapping)
        for entries in [values] if isinstance(values, Mapping) else values:
            # TOML's basic strings, numbers, booleans and arrays of them are written as in JSON
            pairs = (f"{name} = {json.dumps(value)}" for name, value in entries.items())
            lines += ["", f"[{table}]" if single else f"[[{table}]]", *pairs]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
