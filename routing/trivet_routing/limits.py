"""Permits in Redis, each for one call, counted over all workers together; and the health of the routes.

The circuit breaker of a (route, model) keeps its health, a second one of model `*` that of the whole route; the rate
limiter of a model or of a group of models keeps the account's limits. Every step is one script (`lua/`): all or
nothing, on the server's clock. While Redis does not answer, or was emptied and is not restored yet, no calls are made.
"""

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from typing import Any, cast

import redis
from redis.commands.core import Script
from uuid_utils import uuid7

from trivet_routing.permits import (
    BreakerView,
    Change,
    Denial,
    Health,
    Pace,
    PermitGrant,
    PermitRelease,
    PermitRequest,
    Quota,
    RouteUse,
)
from trivet_tasks.config.route_settings import WHOLE_ROUTE
from trivet_tasks.config.settings import HealthSettings
from trivet_tasks.foreign_text import clean
from trivet_tasks.jobs import Permit
from trivet_tasks.latency import Latency
from trivet_tasks.outcomes import HealthSignal
from trivet_tasks.shared_state import PREFIX
from trivet_tasks.states import BREAKER_STATES, RouteState

BURST_S = 1.0
"""Seconds of a minute's limit that may be spent at once. The refill is lower by as much, so that a rolling minute at
the provider is never exceeded. So this is the part of the limits given up for spreading calls evenly."""
PERMIT_GRACE_S = 30.0
"""Seconds after its call's timeout at which a permit that was not released is written off."""
STEP_CALLS = 5
"""Good calls that a recovering route needs at each share."""
JITTER = 0.2
LONGEST_CAUSE = 300
LEARNED = ("closed_until", "noted_until", "limited", "cause", "lr", "li", "lo", "window", "threshold")
"""Fields of a rate limiter that the provider stated, or that were learned from its answers."""
EPOCH = f"{PREFIX}epoch"
UNHEALTHY = f"{PREFIX}unhealthy"

FORGOTTEN = "the shared state is new or was emptied, and a scheduler is rebuilding limits and health"
FORGOTTEN_WAIT_S = 1.0
_WORDS_CHARS = 2_000


class Limits:
    """The breakers and rate limiters of all routes. One per process; safe to share between threads.

    Args:
        origin: names the worker that releases permits here, as a witness on routes (`trivet_worker.run.context`);
            empty in a process that makes none.
    """

    def __init__(self, client: redis.Redis, health: HealthSettings, origin: str = "") -> None:
        self._redis = client
        self._health = health
        self._origin = origin
        self._take = _script(client, "take")
        self._release = _script(client, "release")
        self._view = _script(client, "view")
        self._claim_probe = _script(client, "claim_probe")

    def take(
        self,
        route: str,
        model: str,
        latency: Latency,
        quota: Quota,
        permits: Sequence[PermitRequest],
        timeout_s: float,
        probe: str = "",
    ) -> PermitGrant:
        """Take permits for as many of the calls as fit now, in their order. One round trip.

        Args:
            probe: the probe's token, where the call is a probe; no other call may pass an open breaker.
        """
        arguments: list[str | int | float] = [*_figures(quota), timeout_s + PERMIT_GRACE_S, probe, latency.value]
        for permit in permits:
            arguments += [permit.id, permit.input_tokens, round(permit.output_tokens * quota.output_factor)]
        answer = cast("list[Any]", self._take(keys=keys_of(route, model, quota.group), args=arguments))
        granted, wait_ms, reason, generation, p95_s = answer
        denial, generation = Denial(reason.decode()) if reason else None, generation.decode()
        held = tuple(Permit(*permit, generation) for permit in permits[: int(granted)])
        return PermitGrant(held, int(wait_ms) / 1000, denial, float(p95_s) if p95_s else None)

    def release(
        self, route: str, model: str, latency: Latency, quota: Quota, releases: Sequence[PermitRelease]
    ) -> list[Change]:
        """Release permits and report the calls, all of one class, to breakers and rate limiter. One round trip.

        Unused reservations flow back into the buckets.
        """
        arguments: list[str | int | float] = [
            *_figures(quota),
            *self._rules(),
            latency.value,
            *_stated(releases),
            *self._shares(),
            self._origin,
        ]
        for call in releases:
            arguments += [
                call.permit.id,
                call.permit.input_tokens - call.used_input,
                round((call.permit.output_tokens - call.used_output) * quota.output_factor),
                call.signal.value,
                f"{call.lasted_s:.4f}" if call.signal is HealthSignal.GOOD else call.pause_s,
                f"{-call.took_s if call.late else call.took_s:.4f}",
                int(call.stated is not None),
                call.permit.generation,
                call.job,
                clean(call.cause, LONGEST_CAUSE) or "",
            ]
        keys = [*keys_of(route, model, quota.group), f"{PREFIX}samples:{route}:{model}:{latency}"]
        flat = [part.decode() for part in cast("list[bytes]", self._release(keys=keys, args=arguments))]
        names = {"1": model, "2": WHOLE_ROUTE, "3": quota.group}
        return [
            Change(route, names[level], RouteState(state), cause, float(seconds), float(share))
            for level, state, cause, seconds, share in zip(*(flat[part::5] for part in range(5)), strict=True)
        ]

    def view(self, wanted: Sequence[tuple[str, str, Quota]]) -> dict[tuple[str, str], BreakerView]:
        """Return the current state of the given (route, model) pairs. One round trip for all."""
        if not wanted:
            return {}
        try:
            answers = self._views(wanted)
        except redis.exceptions.NoScriptError:  # a new server
            self._redis.script_load(self._view.script)
            answers = self._views(wanted)
        return {
            (route, model): _viewed(route, model, quota, answer)
            for (route, model, quota), answer in zip(wanted, answers, strict=True)
        }

    def _views(self, wanted: Sequence[tuple[str, str, Quota]]) -> list[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for route, model, quota in wanted:
            keys = keys_of(route, model, quota.group)
            # by its digest: redis-py's own way asks for every pipeline whether the server knows the script
            pipeline.evalsha(self._view.sha, len(keys), *keys, *_figures(quota), self._health.window_s)
        return pipeline.execute()

    def unhealthy(self) -> list[tuple[str, str]]:
        """Return the (route, model) pairs that are not healthy; model `*` for a whole route."""
        names = [
            cast("bytes", key).decode().removeprefix(f"{PREFIX}breaker:") for key in self._redis.smembers(UNHEALTHY)
        ]
        return sorted(cast("tuple[str, str]", tuple(name.split(":", 1))) for name in names)

    def health(self, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Health]:
        """Return the health of the given (route, model) pairs without their limits. One round trip for all."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.time()
        for route, model in pairs:
            pipeline.hmget(f"{PREFIX}breaker:{route}:{model}", "state", "cause", "retry_at", "share")
        (seconds, micros), *found = pipeline.execute()
        health = {}
        for pair, (state, cause, retry_at, share) in zip(pairs, found, strict=True):
            wait_s = max(0.0, float(retry_at or 0) - seconds - micros / 1e6)
            health[pair] = Health(
                _breaker_state(state),
                (cause or b"").decode(),
                wait_s,
                float(share or 0),
            )
        return health

    def uses(self, routes: Sequence[str]) -> dict[str, RouteUse]:
        """Return when each of the routes was called and answered last. Two round trips for all."""
        pipeline = self._redis.pipeline(transaction=False)
        for route in routes:
            pipeline.hmget(f"{PREFIX}breaker:{route}:{WHOLE_ROUTE}", "called_at", "proven_at")
        found = pipeline.execute()
        seconds, micros = self._redis.time()
        now = seconds + micros / 1e6
        return {
            route: RouteUse(*(max(0.0, now - float(at)) if at else None for at in moments))
            for route, moments in zip(routes, found, strict=True)
        }

    def claim_probe(
        self, route: str, model: str, quota: Quota, *, lost_after_s: float, at_once: bool, idle_s: float
    ) -> str | None:
        """Return the token of the next probe, if one is due and none is under way anywhere.

        Args:
            lost_after_s: seconds after which a silent probe counts as lost and another may be made.
            at_once: a person asked for it: make it even if none is due or needed.
            idle_s: probe a healthy route once it has had no call for this many seconds.
        """
        token = uuid7().hex
        arguments: list[str | int | float] = [token, self._interval_s(), lost_after_s, int(at_once), idle_s]
        claimed = self._claim_probe(keys=keys_of(route, model, quota.group), args=arguments)
        return token if claimed else None

    def release_all(self, lease_id: str) -> None:
        """Give back the permits of a dead worker process; its permit ids begin with its lease."""
        for key in self._redis.scan_iter(match=f"{PREFIX}calls:*"):
            held = cast("list[bytes]", self._redis.zrange(key, 0, -1))
            dead = [permit for permit in held if permit.startswith(lease_id.encode())]
            if dead:
                self._redis.zrem(key, *dead)

    def forget(self, route: str) -> None:
        """Make every breaker of a route healthy again and lift the limits its provider stated, by hand."""
        seconds, micros = self._redis.time()
        for key in self._redis.scan_iter(match=f"{PREFIX}samples:{route}:*"):
            self._redis.delete(key)
        whole_route = f"{PREFIX}breaker:{route}:{WHOLE_ROUTE}".encode()
        for key in {whole_route, *self._redis.scan_iter(match=f"{PREFIX}breaker:{route}:*")}:
            with self._redis.pipeline(transaction=True) as pipeline:
                pipeline.delete(key)
                # a generation that no call under way has: their late health signals must not undo it
                pipeline.hset(key, "gen", str(seconds * 1000 + micros // 1000))
                pipeline.srem(UNHEALTHY, key)
                pipeline.execute()
        for key in self._redis.scan_iter(match=f"{PREFIX}limiter:{route}:*"):
            # used limits stay used
            self._redis.hdel(key, *LEARNED)
            reckoned_at = self._redis.hget(key, "at")
            if reckoned_at is not None and float(reckoned_at) > seconds:
                self._redis.hset(key, "at", str(seconds))

    def _interval_s(self) -> float:
        """Return the seconds with jitter, so that probes of several routes do not coincide."""
        return self._health.probe_interval_s * random.uniform(1 - JITTER, 1 + JITTER)

    def _rules(self) -> list[str | int | float]:
        health = self._health
        return [
            health.open_after_failures, self._interval_s(), health.unusable_probe_max_s, health.limited_backoff_s,
            health.limited_backoff_max_s, health.open_failed_share, health.window_s, health.min_calls,
            health.close_after_successes, health.recovery_step_s, STEP_CALLS,
        ]  # fmt: skip

    def _shares(self) -> list[str | int | float]:
        return [len(self._health.recovery_shares), *self._health.recovery_shares]


def keys_of(route: str, model: str, group: str) -> list[str]:
    """Return the keys of a (route, model), in the order of `lua/common.lua`."""
    return [
        f"{PREFIX}breaker:{route}:{model}",
        f"{PREFIX}breaker:{route}:{WHOLE_ROUTE}",
        f"{PREFIX}limiter:{route}:{group}",
        f"{PREFIX}calls:{route}:{group}",
        EPOCH,
        UNHEALTHY,
        f"{PREFIX}calls:{route}:{model}",
    ]


def _breaker_state(word: bytes | None) -> RouteState:
    """Return the state in a breaker's key. A missing or unknown state counts as healthy, as in the scripts."""
    known = next((state for state in BREAKER_STATES if word == state.encode()), None)
    return known or RouteState.HEALTHY


def _viewed(route: str, model: str, quota: Quota, answer: Any) -> BreakerView:
    try:
        return view_from(answer, quota)
    except (ValueError, TypeError, KeyError):
        raise redis.ResponseError(
            f"what it holds of {route} and {model} was not written by Trivet; `trivet route restore {route}` removes it"
        ) from None


def _script(client: redis.Redis, name: str) -> Script:
    folder = resources.files("trivet_routing") / "lua"
    return client.register_script(
        "\n".join((folder / f"{part}.lua").read_text(encoding="utf-8") for part in ("common", name))
    )


def _figures(quota: Quota) -> list[str | int | float]:
    return [quota.requests, quota.input_tokens, quota.output_tokens, BURST_S, quota.max_concurrency]


def _stated(releases: Sequence[PermitRelease]) -> list[str | int | float]:
    """Return the latest limits that the provider stated: three limits, then the rest of each; '' = not stated."""
    said = next((call.stated for call in reversed(releases) if call.stated), None)
    if said is None:
        return [""] * 6
    limits = ["" if one.limit is None else one.limit for one in said]
    return [*limits, *("" if one.remaining is None else one.remaining for one in said)]


def view_from(answer: Sequence[Any], quota: Quota) -> BreakerView:
    """Return the view that the script's answer describes."""
    epoch, state, cause, wait, in_flight, places, levels, rates, calls, failed, share, since, now, paces, *rest = answer
    doubt, proven, generation = rest
    have = [_number(level) for level in levels]
    view = BreakerView(
        state=RouteState(state.decode()),
        cause=_words(cause),
        wait_s=float(wait),
        in_flight=int(in_flight),
        places=int(places),
        headroom=max(0.0, have[0]),
        input_headroom=max(0.0, have[1]),
        output_headroom=max(0.0, have[2]) / quota.output_factor,
        rates=(_number(rates[0]), _number(rates[1]), _number(rates[2]) / quota.output_factor),
        calls=int(calls),
        failed=int(failed),
        share=float(share),
        since=float(since) if since else None,
        doubt=_words(doubt),
        proven_s=_number(proven),
        generation=generation.decode(),
        paces=_paces(paces, float(now)),
    )
    if not epoch:
        return _without_memory(view)
    return view


def _without_memory(view: BreakerView) -> BreakerView:
    return replace(
        view,
        state=RouteState.LIMITED,
        cause=FORGOTTEN,
        wait_s=FORGOTTEN_WAIT_S,
        headroom=0.0,
        input_headroom=0.0,
        output_headroom=0.0,
        since=None,
    )


def _words(text: bytes) -> str:
    """Return text from the shared state made safe to show, as anybody may have written it."""
    return clean(text.decode(errors="replace"), _WORDS_CHARS)


def _number(text: bytes) -> float:
    """Return the number; infinity for an empty text, where nothing limits or nothing is known."""
    return float(text) if text else math.inf


def _paces(flat: Sequence[bytes], now: float) -> dict[Latency, Pace]:
    """Return the paces by class, from `p50:batch`, 0.21, `p95:batch`, …"""
    fields: dict[str, dict[str, float]] = defaultdict(dict)
    for name, value in zip(flat[::2], flat[1::2], strict=True):
        kind, _, latency = name.decode().partition(":")
        fields[latency][kind] = float(value)
    return {
        Latency(latency): Pace(
            found["p50"], found["p95"], int(found["n"]), max(0.0, now - found["seen"]), int(found.get("late", 0))
        )
        for latency, found in fields.items()
    }
