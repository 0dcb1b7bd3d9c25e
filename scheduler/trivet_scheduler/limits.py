"""Permits: leave to make one call now, counted over all workers together, in Redis.

The gate of a (route, model) holds its buckets, its health and how long it is closed; a second gate, of model `*`,
speaks for the whole route. `take` and `settle` are one script each: all or nothing, on the server's clock. When Redis
does not answer nobody calls.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from typing import NamedTuple, cast

import redis

from trivet_tasks.settings import HealthSettings, RouteSettings
from trivet_tasks.shared_state import PREFIX

BURST_S = 3.0
"""How many seconds of a minute's limit may be spent at once."""
WHOLE_ROUTE = "*"
PERMIT_GRACE_S = 30.0
"""How long after its call's timeout a permit that never came back is written off."""


# without those whose holder died, which only a taker removes: a dispatcher that counted them would send nobody to take
_IN_FLIGHT = """
local clock = redis.call('TIME')
return redis.call('ZCOUNT', KEYS[1], '(' .. clock[1] .. '.' .. string.format('%06d', clock[2]), '+inf')
"""


class Want(NamedTuple):
    """A call that asks for a permit: what it may use, in tokens."""

    permit_id: str
    input_tokens: int
    output_tokens: int


class Grant(NamedTuple):
    """The answer: the first `granted` of the calls may go; the next may fit after `wait_s`."""

    granted: int
    wait_s: float
    reason: str
    """`limited`, `open`, `probing`, `concurrency`, `requests`, `input_tokens`, `output_tokens`, or nothing."""


class Verdict(StrEnum):
    """What a call's outcome means for its route."""

    GOOD = "good"
    FAILED = "failed"
    LIMITED = "limited"
    UNUSABLE_MODEL = "unusable_model"
    UNUSABLE_ROUTE = "unusable_route"
    NEUTRAL = "neutral"
    UNUSED = "unused"


class Spent(NamedTuple):
    """A permit that is given back, and what its call said of the route.

    `seconds` is the latency of a good call, or the pause a limited one was told to make (0 = not told).
    """

    want: Want
    used_input: int
    used_output: int
    verdict: Verdict
    seconds: float
    cause: str


class Change(NamedTuple):
    """A gate that changed. `model` is `*` for the whole route."""

    route: str
    model: str
    state: str
    """`open`, `healthy` or `limited`."""
    cause: str
    seconds: float
    """Until the next try."""


@dataclass(frozen=True, slots=True)
class GateView:
    """A (route, model) as it stood a moment ago."""

    state: str
    """`healthy`, `open`, `probing` or `limited`."""
    cause: str
    wait_s: float
    """Until the next call may be made; 0 = now."""
    in_flight: int
    headroom: float
    """Calls that the minute limits allow now, a burst at most; infinite where nothing limits."""
    input_headroom: float
    """Input tokens, likewise."""
    output_headroom: float
    """Output tokens, likewise, as the job counts them (the route's factor is taken out)."""
    latency_s: float | None
    """Moving average of good calls."""
    since: float | None


@dataclass(frozen=True, slots=True)
class Rates:
    """A route's limits per second of one model's calls; 0 = no limit."""

    requests: float
    input_tokens: float
    output_tokens: float
    output_factor: float
    max_concurrency: int

    @classmethod
    def of(cls, route: RouteSettings) -> "Rates":
        """A route's minute limits, less what the burst may add to a rolling minute."""
        share = (1 - BURST_S / 60) / 60
        return cls(
            (route.requests_per_minute or 0) * share,
            (route.input_tokens_per_minute or 0) * share,
            (route.output_tokens_per_minute or 0) * share,
            route.output_token_factor,
            route.max_concurrency,
        )


class Limits:
    """The gates of all routes. One per process; safe to share between threads."""

    def __init__(self, client: redis.Redis, health: HealthSettings) -> None:
        self._redis = client
        self._health = health
        folder = resources.files("trivet_scheduler") / "lua"
        self._take = client.register_script((folder / "take.lua").read_text(encoding="utf-8"))
        self._settle = client.register_script((folder / "settle.lua").read_text(encoding="utf-8"))

    def take(self, route: str, model: str, rates: Rates, wants: Sequence[Want], timeout_s: float) -> Grant:
        """Permits for as many of the calls as fit now, in their order. One round trip."""
        arguments: list[str | int | float] = [
            rates.requests, rates.input_tokens, rates.output_tokens, BURST_S, rates.max_concurrency,
            timeout_s + PERMIT_GRACE_S, timeout_s + 1,
        ]  # fmt: skip
        for want in wants:
            arguments += [want.permit_id, want.input_tokens, round(want.output_tokens * rates.output_factor)]
        granted, wait_ms, reason = cast("list[bytes | int]", self._take(keys=_keys(route, model), args=arguments))
        return Grant(int(granted), int(wait_ms) / 1000, cast("bytes", reason).decode())

    def settle(self, route: str, model: str, rates: Rates, spent: Sequence[Spent]) -> list[Change]:
        """Give permits back and tell the gates what came of the calls. One round trip.

        What was reserved and not used flows back into the buckets.
        """
        health = self._health
        arguments: list[str | int | float] = [
            rates.requests, rates.input_tokens, rates.output_tokens, BURST_S,
            health.open_after_failures, health.probe_interval_s, health.unusable_probe_max_s, health.limited_backoff_s,
        ]  # fmt: skip
        for call in spent:
            factor = rates.output_factor
            arguments += [
                call.want.permit_id,
                call.want.input_tokens - call.used_input,
                round((call.want.output_tokens - call.used_output) * factor),
                call.verdict.value,
                call.seconds,
                call.cause,
            ]
        flat = cast("list[bytes]", self._settle(keys=_keys(route, model), args=arguments))
        return [
            Change(
                route,
                model if flat[at] == b"1" else WHOLE_ROUTE,
                flat[at + 1].decode(),
                flat[at + 2].decode(),
                float(flat[at + 3]),
            )
            for at in range(0, len(flat), 4)
        ]

    def view(self, wanted: Sequence[tuple[str, str, Rates]]) -> dict[tuple[str, str], GateView]:
        """How the given (route, model) stand now. One round trip for all."""
        if not wanted:
            return {}
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.time()
        for route, model, _ in wanted:
            gate, whole, calls = _keys(route, model)
            pipeline.hgetall(gate)
            pipeline.hgetall(whole)
            pipeline.eval(_IN_FLIGHT, 1, calls)
        seconds, *answers = pipeline.execute()
        now = seconds[0] + seconds[1] / 1e6
        return {
            (route, model): _view(
                _decoded(answers[3 * i]), _decoded(answers[3 * i + 1]), answers[3 * i + 2], rates, now
            )
            for i, (route, model, rates) in enumerate(wanted)
        }

    def release_all(self, lease_id: str) -> None:
        """Give back the permits of a dead worker process; its permit ids begin with its lease."""
        for key in self._redis.scan_iter(match=f"{PREFIX}calls:*"):
            held = cast("list[bytes]", self._redis.zrange(key, 0, -1))
            dead = [permit for permit in held if permit.startswith(lease_id.encode())]
            if dead:
                self._redis.zrem(key, *dead)

    def forget(self, route: str) -> None:
        """Make every gate of a route healthy again, by hand."""
        for key in self._redis.scan_iter(match=f"{PREFIX}gate:{route}:*"):
            self._redis.hdel(
                key, "state", "opened", "retry_at", "closed_until", "failures", "limited", "cause", "probe"
            )


def _keys(route: str, model: str) -> list[str]:
    return [
        f"{PREFIX}gate:{route}:{model}",
        f"{PREFIX}gate:{route}:{WHOLE_ROUTE}",
        f"{PREFIX}calls:{route}:{model}",
    ]


def _decoded(answer: dict[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in answer.items()}


def _view(gate: dict[str, str], whole: dict[str, str], in_flight: int, rates: Rates, now: float) -> GateView:
    state, cause, wait_s = "healthy", "", 0.0
    for level in (gate, whole):
        closed = float(level.get("closed_until", 0)) - now
        if closed > 0 and state == "healthy":
            state, cause, wait_s = "limited", level.get("cause", ""), closed
        if "state" in level:
            state, cause = level["state"], level.get("cause", "")
            wait_s = max(wait_s, float(level.get("retry_at", 0)) - now)
    levels = [
        _level(gate, "r", rates.requests, now, least=1.0),
        _level(gate, "i", rates.input_tokens, now),
        _level(gate, "o", rates.output_tokens, now),
    ]
    if state == "healthy":
        short = [
            (1 - have) / rate
            for have, rate in zip(levels, (rates.requests, rates.input_tokens, rates.output_tokens), strict=True)
            if have < 1
        ]
        wait_s = max(short, default=0.0)
    return GateView(
        state=state,
        cause=cause,
        wait_s=max(0.0, wait_s),
        in_flight=in_flight,
        headroom=max(0.0, levels[0]),
        input_headroom=max(0.0, levels[1]),
        output_headroom=max(0.0, levels[2]) / rates.output_factor,
        latency_s=float(gate["latency"]) if "latency" in gate else None,
        since=float(gate["since"]) if "since" in gate else None,
    )


def _level(gate: dict[str, str], name: str, rate: float, now: float, least: float = 0.0) -> float:
    """What a bucket holds now; negative where a large call left a debt, infinite where nothing limits."""
    if not rate:
        return math.inf
    full = max(rate * BURST_S, least)
    passed = max(0.0, now - float(gate.get("at", now)))
    return min(full, float(gate.get(name, full)) + passed * rate)
