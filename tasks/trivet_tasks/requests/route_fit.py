"""Check at submit that some configured route can take a request; without one its jobs would wait for ever.

It concerns what a route's settings decide: betas, fields that Trivet does not know, models that a provider has retired.
Without any route in the configuration nothing is said: such a producer leaves the routes to others.
"""

from collections.abc import Iterable, Mapping
from datetime import date

from trivet_tasks.config.retirement import retired_on, successor
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.requests.eligibility import name_on_wire
from trivet_tasks.requests.features import BETA, FIELD, lacks, shown_features
from trivet_tasks.requests.request_messages import wrong

_ROUTES_SHOWN = 8


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
