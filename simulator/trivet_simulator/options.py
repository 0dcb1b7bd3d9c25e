"""Options of a simulator, and the addresses at which it can be reached."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from trivet_simulator.latency import Latency

WIRE_NAMES = ("anthropic", "bedrock", "vertex")
"""The wires that every simulator serves, each under its own name."""
MORE_WIRES = ("messages", "mantle", "platform")
"""Those that it serves when asked to: the Messages API of bedrock-runtime and of bedrock-mantle, Claude Platform on AWS."""
_PREFIXES = {"vertex": "/v1", "messages": "/anthropic", "mantle": "/anthropic"}


@dataclass(frozen=True, slots=True)
class ProviderOptions:
    """One provider: its name in URLs and logs, its wire, its port (0: any free one) and its latency."""

    name: str
    wire: str
    port: int = 0
    latency: Latency | None = None
    """None: the simulator's."""

    def __post_init__(self) -> None:
        if self.wire not in (*WIRE_NAMES, *MORE_WIRES):
            known = ", ".join((*WIRE_NAMES, *MORE_WIRES))
            raise ValueError(f"wire of {self.name!r} must be one of {known}, not {self.wire!r}")
        if not re.fullmatch(r"[A-Za-z0-9._-]+", self.name):
            raise ValueError(f"a provider's name is letters, digits, dot, dash and underscore, not {self.name!r}")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port of provider {self.name!r} must be between 0 and 65535, not {self.port}")


def _three() -> tuple[ProviderOptions, ...]:
    return tuple(ProviderOptions(wire, wire) for wire in WIRE_NAMES)


@dataclass(frozen=True, slots=True)
class SimulatorOptions:
    """Everything a simulator is started with. ValueError on what cannot be."""

    providers: tuple[ProviderOptions, ...] = field(default_factory=_three)
    control_port: int = 0
    latency: Latency = field(default_factory=Latency)
    seed: int = 1
    models: tuple[str, ...] = ("*claude*",)
    """Globs of the model ids that are known; all others are answered as missing."""
    output_median: int = 64
    """Median length of answers in tokens (lognormal, cut at `max_tokens`)."""
    call_log: Path | None = None
    """JSON lines of all calls are appended here."""
    log_capacity: int = 1_000_000
    """Calls held in memory."""
    replies: tuple[Mapping[str, Any], ...] = ()
    """Scripted replies (`trivet_simulator.scripted`), which a reset leaves."""
    ready_file: Path | None = None
    """The endpoints are written here, whole, when all ports are open."""
    parent: int | None = None
    """Stop when the process of this id is no longer the parent."""

    def __post_init__(self) -> None:
        names = [p.name for p in self.providers]
        if len(set(names)) != len(names):
            raise ValueError(f"provider names must differ: {', '.join(names)}")
        if not 0 <= self.control_port <= 65535:
            raise ValueError(f"control port must be between 0 and 65535, not {self.control_port}")
        if self.output_median < 1 or self.log_capacity < 1:
            raise ValueError("output_median and log_capacity must be at least 1")


def replies_from(path: Path | None) -> tuple[Mapping[str, Any], ...]:
    """Read scripted replies from a JSON file: one rule, or a list of them. ValueError on what is none."""
    if path is None:
        return ()
    try:
        found = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{path}: is not JSON: {error}") from None
    rules = found if isinstance(found, list) else [found]
    if not all(isinstance(rule, dict) for rule in rules):
        raise ValueError(f"{path}: must hold one reply rule or a list of them, each a JSON object")
    return tuple(rules)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Addresses of all servers. `providers` maps names to base URLs for the SDK clients."""

    providers: dict[str, str]
    control: str
    token_url: str
    """Google's token endpoint: `token_uri` of a service account's key."""
    credentials_url: str
    """AWS container credentials: the value of AWS_CONTAINER_CREDENTIALS_FULL_URI."""
    pid: int = field(default_factory=os.getpid)

    @classmethod
    def on(cls, control: str, providers: Mapping[str, str], pid: int | None = None) -> Endpoints:
        """Return those of a simulator whose control port and providers have these base URLs."""
        urls = f"{control}/token", f"{control}/credentials"
        return cls(dict(providers), control, *urls, os.getpid() if pid is None else pid)

    @property
    def anthropic(self) -> str:
        """Base URL for `AsyncAnthropic`."""
        return self.providers["anthropic"]

    @property
    def bedrock(self) -> str:
        """Base URL for `AsyncAnthropicBedrock`."""
        return self.providers["bedrock"]

    @property
    def vertex(self) -> str:
        """Base URL for `AsyncAnthropicVertex`; ends in /v1, as Google's does."""
        return self.providers["vertex"]

    def as_json(self) -> bytes:
        """One line, as printed when ready."""
        return orjson.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: bytes | str | Mapping[str, Any]) -> Endpoints:
        """The other way round."""
        return cls(**(line if isinstance(line, Mapping) else orjson.loads(line)))


def base_url(wire: str, port: int) -> str:
    """The base URL an SDK client of that wire wants."""
    return f"http://127.0.0.1:{port}{_PREFIXES.get(wire, '')}"
