"""Retirement of models by their providers: the routes it closes, and the warnings before and after.

A route whose `models` setting names the model is exempt: an operator who names an id knows what the account still has.
"""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta

from trivet_tasks.catalog import MODELS, Model, Retirement, known
from trivet_tasks.config.route_settings import RouteSettings

RETIRES_SOON = timedelta(days=60)
"""Warn this long before the day: the notice that Anthropic gives at least."""


def day_of(seconds: float) -> date:
    """The UTC day of a moment in seconds since the epoch."""
    return datetime.fromtimestamp(seconds, UTC).date()


def retirement_on(model: str, route: RouteSettings) -> Retirement | None:
    """Return the day the route's provider stops serving the model; None: not known, or the route names the model itself."""
    entry = known(model)
    if entry is None or (route.models and not {model, entry.id, *entry.aliases}.isdisjoint(route.models)):
        return None
    return entry.retires.get(route.answers_as)


def retired_on(model: str, route: RouteSettings, today: date) -> date | None:
    """The day on which the route's provider stopped serving the model; None while it serves it."""
    retirement = retirement_on(model, route)
    return retirement.day if retirement and retirement.announced and today > retirement.day else None


def retirement_text(model: str, retirement: Retirement, today: date) -> str:
    """Return a warning to a person who uses the model, one sentence; empty while the day is far away."""
    if retirement.day - today > RETIRES_SOON:
        return ""
    day = retirement.day.isoformat()
    if not retirement.announced:
        return f"{model} may be retired from {day} on: its vendor promises it no longer than that."
    return f"{model} {'retired' if today > retirement.day else 'retires'} on {day}."


def retirement_warning(model: Model, routes: Mapping[str, RouteSettings], today: date) -> str:
    """Return the warnings at submit: routes whose provider stops serving the model within 60 days, or has stopped.

    Empty where there are none. Days that are only "not sooner than" are left to `trivet routes check`.
    """
    by_day: dict[date, list[str]] = {}
    for name, route in routes.items():
        retirement = retirement_on(model.id, route)
        if retirement and retirement.announced and retirement.day - today <= RETIRES_SOON:
            by_day.setdefault(retirement.day, []).append(name)
    told = [
        f"{'retired' if today > day else 'retires'} on {day.isoformat()} on {', '.join(names)}"
        for day, names in sorted(by_day.items())
    ]
    return f"model: {model.id} {'; '.join(told)}. Move its jobs to a newer model." if told else ""


def successor(model: str) -> str:
    """The newest model of the same family that nobody retires, for a hint; empty where none is known."""
    family = next((name for name in _FAMILIES if name in model), None)
    return next((one.id for one in MODELS if family and family in one.id and not _ends(one)), "")


def _ends(model: Model) -> bool:
    return any(retirement.announced for retirement in model.retires.values())


_FAMILIES = ("haiku", "sonnet", "opus", "fable", "mythos")
