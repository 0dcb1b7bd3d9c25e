"""Settings on a scaled clock: the user's configuration in which every time is shorter, and every rate higher, by one factor.

Every field of the settings is classified here, so that a new one is not forgotten (`tests/unit/test_rehearse.py`).
"""

from collections.abc import Mapping
from enum import StrEnum
from math import ceil
from typing import Any, Protocol

from trivet.config.effective import table_lines
from trivet_tasks.call_times import CallTime
from trivet_tasks.config.gateway import GatewaySettings
from trivet_tasks.config.route_settings import OPERATIONAL, PLACE, RouteSettings
from trivet_tasks.config.schedules import ScheduleSettings
from trivet_tasks.config.settings import Settings
from trivet_tasks.latency import Lane, Latency

_MOST_PER_MINUTE = 2_000_000_000


class Scale(StrEnum):
    """Treatment of a setting."""

    TIME = "time"
    """Seconds: divided by the speed."""
    RATE = "rate"
    """Amount per minute: multiplied by the speed, and by the share of the requests that are rehearsed."""
    PACE = "pace"
    """A multiple of a usual pace: multiplied by the speed."""
    PLACES = "places"
    """Calls at once: multiplied by that share alone."""
    KEPT = "kept"
    """Neither time nor rate."""
    MACHINE = "machine"
    """Seconds of this machine's processes, which are as quick on a scaled clock as on any: kept."""
    REPLACED = "replaced"
    """An address, a secret or what only matters elsewhere: the rehearsal has its own."""


def _kept(*names: str, **others: Scale) -> Mapping[str, Scale]:
    return {**dict.fromkeys(names, Scale.KEPT), **others}


_LIMITS = dict.fromkeys(
    ("requests_per_minute", "input_tokens_per_minute", "output_tokens_per_minute"), Scale.RATE
) | {"max_concurrency": Scale.PLACES}  # fmt: skip

SCALES: Mapping[str, Mapping[str, Scale]] = {
    "store": dict.fromkeys(("url", "pool_size", "max_overflow", "prepared_statements"), Scale.REPLACED),
    "broker": {"url": Scale.REPLACED},
    "redis": {"url": Scale.REPLACED},
    "celery_apps": dict.fromkeys(("broker_url", "broker_transport_options"), Scale.REPLACED),
    "flower": {"hosts": Scale.REPLACED},
    "gateway": dict.fromkeys(GatewaySettings.model_fields, Scale.REPLACED),
    "security": {"key": Scale.REPLACED},
    "classes": _kept(
        "max_rounds", "order", "share", "chunk_jobs", "hedge_share",
        budget_s=Scale.TIME, attempt_timeout_s=Scale.TIME, backoff_base_s=Scale.TIME, backoff_max_s=Scale.TIME,
        deadline_s=Scale.TIME, cache_ttl_s=Scale.TIME, first_token_timeout_s=Scale.TIME, stall_timeout_s=Scale.TIME,
        pace=Scale.PACE,
    ),
    "health": _kept(
        "open_after_failures", "open_failed_share", "min_calls", "close_after_successes", "recovery_shares",
        window_s=Scale.TIME, probe_interval_s=Scale.TIME, idle_probe_s=Scale.TIME, recovery_step_s=Scale.TIME,
        unusable_probe_max_s=Scale.TIME, limited_backoff_s=Scale.TIME,
        limited_backoff_max_s=Scale.TIME,
    ),
    "leases": {"ttl_s": Scale.MACHINE, "heartbeat_s": Scale.MACHINE},
    "worker": _kept(
        "slots", "isolated_processes", "bulk_nice", lanes=Scale.REPLACED, shutdown_grace_s=Scale.REPLACED
    ),
    "dispatch": _kept(
        "credit_factor",
        interval_s=Scale.MACHINE, taken_within_s=Scale.MACHINE, permit_patience_s=Scale.MACHINE,
    ),
    "cache": _kept("enabled", "max_bytes", "max_answer_bytes", "shared"),
    "budgets": _kept("name", "usd", "per", "tag", "batch", "tenant", "route", "warn_at"),
    "schedules": dict.fromkeys(ScheduleSettings.model_fields, Scale.REPLACED),
    "routes": {
        **_LIMITS,
        **_kept(
            "provider", "region", "project", "endpoint", "workspace_id", "api_version", "api_versions", "models",
            "output_token_factor", "limits", "priority", "weight", "residency", "compliance", "stream", "betas",
            "body_fields", "costs", "prices", "windows",
        ),
        "idle_probe_s": Scale.TIME,
        **dict.fromkeys(("base_url", "api_key", "admin_api_key", "environment"), Scale.REPLACED),
    },
    "limits": {"models": Scale.KEPT, **_LIMITS},
}  # fmt: skip
"""By table of the configuration: the treatment of each field. `limits` are the groups of a route."""


def scaled(table: str, values: Mapping[str, Any], speed: float, share: float = 1.0) -> dict[str, Any]:
    """Return the settings of one table on the scaled clock; those that are replaced or have no value are left out.

    Args:
        share: the part of the requests that is rehearsed, above 0 and at most 1.
    """

    def changed(name: str, value: Any) -> Any:
        match SCALES[table][name]:
            case Scale.TIME:
                return value / speed
            case Scale.PACE:
                return value * speed
            case Scale.RATE:
                return min(_MOST_PER_MINUTE, max(1, round(value * speed * share)))
            case Scale.PLACES:
                return max(1, ceil(value * share))
        if table == "routes" and name == "limits":
            return [scaled("limits", group, speed, share) for group in value]
        return value

    return {
        name: changed(name, value)
        for name, value in values.items()
        if value is not None and SCALES[table][name] is not Scale.REPLACED
    }


def scaled_route(route: RouteSettings, speed: float, share: float = 1.0) -> dict[str, Any]:
    """Return a route on the scaled clock, JSON-ready and without an address: the simulator's takes that place."""
    given = route.model_dump(mode="json", include={*PLACE, *OPERATIONAL, "stream"}, exclude_defaults=True)
    made_up = {"project": "simulated"} if route.provider == "vertex" and not route.project else {}
    return {**scaled("routes", {**given, "max_concurrency": route.max_concurrency}, speed, share), **made_up}


class Times(Protocol):
    """The times that a rehearsal plans for its requests, in seconds without any scaling."""

    @property
    def times(self) -> Mapping[Latency, CallTime]:
        """The longest times that its requests get, by class; calls of shorter ones get them, too."""
        ...

    @property
    def silence_s(self) -> Mapping[Latency, float]:
        """Silence after which calls are left, of classes whose calls are streamed because they are long."""
        ...


def scaled_config(settings: Settings, plan: Times, lanes: tuple[Lane, ...], speed: float) -> str:
    """Return the configuration of a rehearsal as TOML, without its routes and with no address or secret in it.

    Args:
        plan: the times of the rehearsed requests.
        lanes: the lanes that the rehearsed requests need.
    """
    lines = ["# Written by `trivet rehearse`: the settings of this rehearsal, on a scaled clock."]
    for latency, of_class in settings.classes.items():
        terms = of_class.model_dump(mode="json")
        if latency in plan.times and latency is not Latency.REALTIME:
            terms |= {"attempt_timeout_s": plan.times[latency].attempt_s, "budget_s": plan.times[latency].budget_s}
        for limit in ("first_token_timeout_s", "stall_timeout_s"):
            if terms[limit] is None:  # the limits of long calls are fixed seconds, which would not be scaled
                terms[limit] = plan.silence_s.get(latency)
        lines += table_lines(f"classes.{latency}", scaled("classes", terms, speed))
    for table in ("health", "leases", "dispatch", "cache"):
        lines += table_lines(table, scaled(table, getattr(settings, table).model_dump(mode="json"), speed))
    worker = scaled("worker", settings.worker.model_dump(mode="json"), speed)
    lines += table_lines("worker", {**worker, "lanes": [lane.value for lane in lanes], "shutdown_grace_s": 0})
    for budget in settings.budgets:
        lines += table_lines("[budgets]", budget.definition())
    return "\n".join(lines) + "\n"
