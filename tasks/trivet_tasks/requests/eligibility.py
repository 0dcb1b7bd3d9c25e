"""Rules that decide whether a configured route ever takes a job, and the checks at submit that some route does.

Without any route in the configuration the checks say nothing: such a producer leaves the routes to others. A retired
model is closed on a route, unless the route's `models` setting names it: that operator knows what the account still has.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta

from trivet_tasks.catalog import MODELS, Dialect, Model, Retirement, default_version, known, wire_model
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.errors import InvalidRequest
from trivet_tasks.jobs import JobSpec
from trivet_tasks.requests.features import BETA, FIELD, VERSIONED, field_of, lacks, refused_since, shown_features
from trivet_tasks.requests.request_messages import wrong

_WORDS = {
    "sampling": "temperature, top_p and top_k",
    "assistant_documents": "documents in messages of the assistant",
    "user_citations": "citations on text of the user",
}
_BEFORE_2026_10_21 = "2023-06-01"
FAMILIES = ("haiku", "sonnet", "opus", "fable", "mythos")
"""Families of models, the smallest first."""

RETIRES_SOON = timedelta(days=60)
"""Warn this long before the day: the notice that Anthropic gives at least."""

_ROUTES_SHOWN = 8


def name_on_wire(route: RouteSettings, model: str) -> str | None:
    """Return the model's name on the route's wire, or None when the route does not serve it."""
    resident = bool(route.residency)
    return wire_model(model, route.provider, route.region, route.models, resident=resident, endpoint=route.endpoint)


def misfit(
    route: RouteSettings,
    named: str | None,
    model: str,
    residency: tuple[str, ...],
    compliance: tuple[str, ...],
    features: tuple[str, ...],
) -> str:
    """Return the reason for which a route never takes a job that asks for this; empty = it fits.

    Args:
        named: what the route's wire calls the model; None = it does not serve it.
    """
    if named is None:
        return f"does not serve {model}"
    for kind, wanted, has in (
        ("residency", residency, route.residency),
        ("compliance", compliance, route.compliance),
    ):
        missing = sorted(set(wanted) - set(has))
        if missing:
            return f"lacks {kind} {', '.join(missing)}"
    if not features:
        return ""
    dialect = route.dialect(model)
    without = lacks(dialect, features, betas=route.betas, body_fields=route.body_fields)
    if without and VERSIONED.issuperset(without):
        return f"its API version, {dialect.version}, takes no {', '.join(without)}"
    return f"its wire has no {shown_features(without)}" if without else ""


def check_versions(spec: JobSpec, body: Mapping[str, object], routes: Mapping[str, RouteSettings]) -> None:
    """Refuse a request that needs another version of the API than the routes for this job speak.

    Routes that would not take the job anyway do not count. If none would take it, the job waits for one.

    Raises:
        InvalidRequest: names the field, the routes with their versions, and what to do.
    """
    rest = tuple(name for name in spec.features if name not in VERSIONED)
    terms = (spec.model, spec.residency, spec.compliance)
    fit = {n: r for n, r in routes.items() if not misfit(r, name_on_wire(r, spec.model), *terms, rest)}
    asked = [name for name in spec.features if name in VERSIONED]
    if not fit or any(not lacks(route.dialect(spec.model), asked) for route in fit.values()):
        return
    # where each is taken somewhere, but all of them nowhere, the last one named decides
    refused = next((n for n in asked if all(lacks(r.dialect(spec.model), (n,)) for r in fit.values())), asked[-1])
    spoken = ", ".join(f"{name} speaks {route.version_of(spec.model)}" for name, route in fit.items())
    name, route = next(iter(fit.items()))
    usual = Dialect(route.provider, route.endpoint, default_version(route.provider, route.endpoint))
    older = _BEFORE_2026_10_21 if lacks(usual, (refused,)) else usual.version
    field = field_of(refused, body)
    raise InvalidRequest(
        f"{field}: no route for {spec.model} takes {_WORDS[refused]}: the API answers 400 to them since version "
        f"{refused_since(refused)} ({spoken}).",
        field=field,
        hint=f'Leave them out, or set an older version for a route, e.g. api_version = "{older}" in [routes.{name}].',
    )


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
    return next(iter(lasting(family_of(model))), "")


def family_of(model: str) -> str | None:
    """Return the family in a model's name, e.g. `haiku`; None where it names none."""
    return next((name for name in FAMILIES if name in model), None)


def lasting(family: str | None) -> list[str]:
    """Return the models of a family that nobody retires, the newest first."""
    return [one.id for one in MODELS if family and family in one.id and not _ends(one)]


def _ends(model: Model) -> bool:
    return any(retirement.announced for retirement in model.retires.values())


def serving_routes(model: str, routes: Mapping[str, RouteSettings]) -> dict[str, RouteSettings]:
    """The routes whose wire has an id for the model, retired or not."""
    return {name: route for name, route in routes.items() if name_on_wire(route, model) is not None}


def check_retirement(model: str, routes: Mapping[str, RouteSettings], today: date) -> None:
    """Refuse a model that every route serving it has lost by now.

    Raises:
        InvalidRequest: with the routes and the days.
    """
    serving = serving_routes(model, routes)
    gone = {name: day for name, route in serving.items() if (day := retired_on(model, route, today))}
    if not gone or len(gone) < len(serving):
        return
    told = _listed(f"{name} (since {day.isoformat()})" for name, day in gone.items())
    newer = successor(model)
    use = f"Use {newer}, " if newer else "Use another model, "
    raise wrong(
        "model",
        f"{model} is retired on every route that served it: {told}. {use}"
        f'or name its id in the route\'s models if the account still has it: models = {{ "{model}" = "…" }}.',
    )


def check_extras(model: str, features: Iterable[str], routes: Mapping[str, RouteSettings]) -> None:
    """Refuse betas, and fields of the body that Trivet does not know, which no one route takes together.

    Raises:
        InvalidRequest: with the names, the routes and the setting that adds them.
    """
    extras = tuple(name for name in features if name.startswith((BETA, FIELD)))
    serving = serving_routes(model, routes) if extras else {}
    missing = {
        name: lacks(route.dialect(model), extras, betas=route.betas, body_fields=route.body_fields)
        for name, route in serving.items()
    }
    if not missing or not all(missing.values()):
        return
    fewest = min(missing.values(), key=len)
    told = _listed(f"{name} ({shown_features(lacking)})" for name, lacking in missing.items())
    field = "betas" if fewest[0].startswith(BETA) else f"extra_body.{fewest[0].removeprefix(FIELD)}"
    raise wrong(
        field,
        f"no configured route takes {shown_features(fewest)}. Routes and what they lack: {told}. "
        f"Add a route of the Anthropic API, or {_setting(fewest)} to a route that takes it.",
    )


def _setting(extras: Iterable[str]) -> str:
    """The lines of a route's table that make it take these."""
    parts = []
    for key, start in (("betas", BETA), ("body_fields", FIELD)):
        names = [f'"{name.removeprefix(start)}"' for name in extras if name.startswith(start)]
        if names:
            parts.append(f"{key} = [{', '.join(names)}]")
    return " and ".join(parts)


def _listed(items: Iterable[str]) -> str:
    """Some of the items, and how many more."""
    every = list(items)
    more = len(every) - _ROUTES_SHOWN
    return ", ".join(every[:_ROUTES_SHOWN]) + (f" and {more} more" if more > 0 else "")
