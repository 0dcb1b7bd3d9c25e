"""Permits and breakers as their tests drive them: on a real Valkey, with a clock that only the test moves."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis
from redis.commands.core import Script

from trivet_routing.limits import EPOCH, Limits
from trivet_routing.permits import (
    BreakerView,
    Change,
    PermitGrant,
    PermitRelease,
    PermitRequest,
    Quota,
    Stated,
)
from trivet_tasks.config.route_settings import WHOLE_ROUTE, RouteSettings
from trivet_tasks.config.settings import HealthSettings
from trivet_tasks.jobs import Permit
from trivet_tasks.latency import Latency
from trivet_tasks.outcomes import HealthSignal
from trivet_tasks.shared_state import PREFIX

ROUTE, MODEL, NEIGHBOUR = "bedrock-us-east-1", "claude-sonnet-5-5", "claude-haiku-5-5"
TIMEOUT_S = 15.0
LOST_AFTER_S = 20.0
HEALTH = HealthSettings(probe_interval_s=10)
"""The defaults, but for a round number."""
MICROS = 1_000_000
_CLOCK = "test-clock"
# number the breakers of a run; an object's address would be used again, and two breakers would name a permit alike
_NUMBERS = itertools.count()


class ClockedRedis(redis.Redis):
    """A client whose server tells the time that the test has set."""

    def register_script(self, script: Any) -> Script:
        """Let the script read the test's clock where it reads the server's."""
        return super().register_script(
            script.replace("redis.call('TIME')", f"redis.call('HMGET', '{_CLOCK}', 'seconds', 'micros')")
        )

    def set_time(self, micros: int) -> None:
        self.hset(_CLOCK, mapping={"seconds": micros // MICROS, "micros": micros % MICROS})

    def time(self, **_: Any) -> tuple[int, int]:
        seconds, micros = self.hmget(_CLOCK, "seconds", "micros")
        return int(seconds or 0), int(micros or 0)


def quota(
    requests: float = 0,
    tokens_in: float = 0,
    tokens_out: float = 0,
    *,
    factor: float = 1,
    most: int = 1_000,
    group: str = "",
) -> Quota:
    """Return limits a minute, 0: none; `group`: the models that share them, else each model has them for itself."""
    return Quota(group, requests, tokens_in, tokens_out, factor, most)


@dataclass
class Breaker:
    """One (route, model) under one quota, with the permits that were taken through this object, oldest first."""

    client: redis.Redis
    limits: Limits
    model: str
    quota: Quota
    route: str = ROUTE
    held: list[Permit] = field(default_factory=list)
    _number: int = field(default_factory=_NUMBERS.__next__)
    _asked: int = 0

    def permits(self, count: int, tokens_in: int = 0, tokens_out: int = 0) -> list[PermitRequest]:
        self._asked += count
        return [
            PermitRequest(f"lease:{self.model}:{self._number}:{self._asked - n}", tokens_in, tokens_out)
            for n in reversed(range(count))
        ]

    def take(
        self,
        permits: Sequence[PermitRequest] | int = 1,
        tokens_in: int = 0,
        tokens_out: int = 0,
        *,
        probe: str = "",
        timeout_s: float = TIMEOUT_S,
        latency: Latency = Latency.BATCH,
    ) -> PermitGrant:
        asked = self.permits(permits, tokens_in, tokens_out) if isinstance(permits, int) else permits
        grant = self.limits.take(self.route, self.model, latency, self.quota, asked, timeout_s, probe)
        self.held += grant.permits
        return grant

    def settle(self, signal: HealthSignal = HealthSignal.GOOD, *, count: int = 1, **how: Any) -> list[Change]:
        """Give back the oldest permits."""
        held, self.held = self.held[:count], self.held[count:]
        assert held, "nothing to give back"
        return self.settle_these(held, signal, **how)

    def settle_these(
        self,
        held: Iterable[Permit],
        signal: HealthSignal = HealthSignal.GOOD,
        *,
        used: tuple[int, int] | None = None,
        pause_s: float = 0.0,
        took_s: float = 0.0,
        stated: tuple[Stated, Stated, Stated] | None = None,
        cause: str = "",
        job: str = "",
        lasted_s: float = 0.0,
        late: bool = False,
        latency: Latency = Latency.BATCH,
    ) -> list[Change]:
        nothing = (0, 0) if signal is HealthSignal.UNUSED else None
        spent = [
            PermitRelease(
                one,
                *(used or nothing or (one.input_tokens, one.output_tokens)),
                signal,
                cause or f"{signal}: said the provider",
                pause_s,
                took_s,
                stated,
                job,
                lasted_s,
                late,
            )
            for one in held
        ]
        return self.limits.release(self.route, self.model, latency, self.quota, spent)

    def call(self, signal: HealthSignal = HealthSignal.GOOD, **how: Any) -> list[Change]:
        """Make one call, from its permit to its outcome."""
        assert self.take().granted == 1
        held = self.held.pop()
        return self.settle_these([held], signal, **how)

    def calls(self, count: int, signal: HealthSignal = HealthSignal.GOOD, **how: Any) -> list[Change]:
        """Make that many calls, one after the other."""
        return [change for _ in range(count) for change in self.call(signal, **how)]

    def view(self) -> BreakerView:
        return self.limits.view([(self.route, self.model, self.quota)])[self.route, self.model]

    @property
    def settings(self) -> RouteSettings:
        """Settings of a route with this quota."""
        settings = RouteSettings(
            provider="bedrock",
            requests_per_minute=int(self.quota.requests) or None,
            input_tokens_per_minute=int(self.quota.input_tokens) or None,
            output_tokens_per_minute=int(self.quota.output_tokens) or None,
            output_token_factor=self.quota.output_factor,
            max_concurrency=self.quota.max_concurrency,
        )
        assert Quota.of(settings, self.model) == self.quota
        return settings

    @property
    def state(self) -> str:
        return self.view().state

    def in_flight(self) -> int:
        return int(self.client.zcard(f"{PREFIX}calls:{self.route}:{self.quota.group}"))

    def is_held(self, held: Permit) -> bool:
        """Return whether the shared state knows the permit still."""
        return self.client.zscore(f"{PREFIX}calls:{self.route}:{self.quota.group}", held.id) is not None

    def bucket(self, name: str) -> float:
        """The level of a bucket as it was written last: `r`, `i` or `o`."""
        return float(self.client.hget(f"{PREFIX}limiter:{self.route}:{self.quota.group}", name) or 0)

    # health

    def claim(self, *, at_once: bool = False, idle_s: float = 0.0) -> str | None:
        return self.limits.claim_probe(
            self.route, self.model, self.quota, lost_after_s=LOST_AFTER_S, at_once=at_once, idle_s=idle_s
        )

    def probe(self, signal: HealthSignal = HealthSignal.GOOD, **how: Any) -> list[Change]:
        """Make one probe that is due, from its token to its outcome."""
        token = self.claim()
        assert token, "no probe is due"
        assert self.take(probe=token).granted == 1
        return self.settle_these([self.held.pop()], signal, **how)


class World:
    """One shared state, and the time in it."""

    def __init__(self, client: ClockedRedis, health: HealthSettings = HEALTH) -> None:
        self.client = client
        self.health = health
        self.limits = Limits(client, health)
        self._micros = 1_800_000_000 * MICROS
        self.start_anew()

    def start_anew(self) -> None:
        """Forget everything and begin the epoch."""
        self.client.flushdb()
        self.client.set(EPOCH, "1")
        self.pass_time(0)

    def lose_memory(self) -> None:
        self.client.flushdb()
        self.pass_time(0)

    def pass_time(self, seconds: float) -> None:
        self._micros += round(seconds * MICROS)
        self.client.set_time(self._micros)

    @property
    def now(self) -> float:
        return self._micros / MICROS

    def breaker(self, model: str = MODEL, limits: Quota | None = None) -> Breaker:
        shared = limits or quota()
        own = shared if shared.group else Quota(model, *_figures(shared))
        return Breaker(self.client, self.limits, model, own)

    def breaker_of(self, origin: str, model: str = MODEL) -> Breaker:
        """The same breaker, as a worker of an origin of its own uses it."""
        limits = Limits(self.client, self.health, origin)
        return Breaker(self.client, limits, model, Quota(model, *_figures(quota())))

    def open(self, breaker: Breaker) -> None:
        """Take it out of service by failures in a row."""
        breaker.calls(HEALTH.open_after_failures, HealthSignal.FAILED)
        assert breaker.state == "open"

    def probing(self, breaker: Breaker, signal: HealthSignal = HealthSignal.GOOD, **how: Any) -> list[Change]:
        """Wait until a probe is due, and make it."""
        self.pass_time(HEALTH.probe_interval_s)
        return breaker.probe(signal, **how)

    def recover(self, breaker: Breaker) -> None:
        """Take it from open to the first share of its recovery."""
        for _ in range(HEALTH.close_after_successes):
            self.probing(breaker)
        assert breaker.state == "recovering"


def _figures(of: Quota) -> tuple[float, float, float, float, int]:
    return of.requests, of.input_tokens, of.output_tokens, of.output_factor, of.max_concurrency


def states(changes: Iterable[Change]) -> list[tuple[str, str]]:
    """Summarise the changes: (model, state)."""
    return [(change.model, change.state) for change in changes]


__all__ = [
    "HEALTH",
    "LOST_AFTER_S",
    "MODEL",
    "NEIGHBOUR",
    "ROUTE",
    "TIMEOUT_S",
    "WHOLE_ROUTE",
    "Breaker",
    "ClockedRedis",
    "World",
    "quota",
    "states",
]  # fmt: skip
