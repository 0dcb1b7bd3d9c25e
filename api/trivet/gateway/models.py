"""`GET /v1/models` and `/v1/models/{id}`: the models that the routes serve, with their routes, prices and limits."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, NamedTuple

import orjson
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trivet.admin.routes import KnownRoute
from trivet.gateway.context import Gateway
from trivet.gateway.errors import ApiError
from trivet_tasks.catalog import MODELS, Model, known
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.prices.cost_model import CostModel
from trivet_tasks.requests.eligibility import day_of, family_of, lasting, name_on_wire, retired_on, retirement_on

PAGE = 20
"""Models of a page, unless `limit` says otherwise."""
MAX_PAGE = 1_000
LIFECYCLES = frozenset({"active", "deprecated", "retired"})
"""As the Anthropic API names them. No route serves a model that is retired."""
_DAY = re.compile(r"-(20\d{2})(\d{2})(\d{2})$")
_UNKNOWN = "1970-01-01T00:00:00Z"
"""`created_at` of a model whose release date is not known, as the Anthropic API has it."""
_KINDS = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")
_FIGURES = ("requests_per_minute", "input_tokens_per_minute", "output_tokens_per_minute", "max_concurrency")
_costs = CostModel()


def routes() -> list[Route]:
    """Return the routes of the models."""
    return [
        Route("/v1/models", list_models, methods=["GET"]),
        Route("/v1/models/{model_id:path}", get_model, methods=["GET"]),
    ]


async def list_models(request: Request) -> Response:
    """Return a page of the models that the routes serve and the key allows, the newest first."""
    gateway: Gateway = request.app.state.gateway
    principal = await gateway.access.admit(request.headers)
    wanted = _lifecycles(request.query_params)
    served = [
        one
        for one in await gateway.run(served_models, gateway)
        if principal.allows_model(one.id) and one.lifecycle in wanted
    ]
    page, more = page_of([one.id for one in served], request.query_params)
    shown = [one.described(gateway.admin.now()) for one in served if one.id in page]
    body = {
        "data": shown,
        "has_more": more,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
    }
    return Response(orjson.dumps(body), media_type="application/json")


async def get_model(request: Request) -> Response:
    """Return one model, by its id or an alias."""
    gateway: Gateway = request.app.state.gateway
    principal = await gateway.access.admit(request.headers)
    asked: str = request.path_params["model_id"]
    entry = known(asked)
    name = entry.id if entry is not None else asked
    for one in await gateway.run(served_models, gateway):
        if one.id == name and principal.allows_model(asked):
            return Response(orjson.dumps(one.described(gateway.admin.now())), media_type="application/json")
    raise ApiError(404, f"model: {asked[:100]!r}: no route serves it. GET /v1/models lists those that are served.")


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model, and the routes that serve it now."""

    id: str
    entry: Model | None
    """None: a model that a route's settings alone know."""
    routes: tuple[tuple[KnownRoute, str], ...]
    """Each with the model's name on its wire."""

    @property
    def ends(self) -> date | None:
        """The day on which the last of its routes loses it; None: one of them keeps it."""
        return _ends(self.id, [route.settings for route, _ in self.routes])

    @property
    def lifecycle(self) -> str:
        """`deprecated` if every route loses it on a day that is announced, else `active`."""
        return "active" if self.ends is None else "deprecated"

    def described(self, now: float) -> dict[str, Any]:
        """Return the model as the Anthropic API has it, and in `trivet` its routes.

        Args:
            now: seconds since the epoch.
        """
        ends = self.ends
        return {
            "type": "model",
            "id": self.id,
            "display_name": _display_name(self.id),
            "created_at": _created_at(self.entry),
            "lifecycle": self.lifecycle,
            "deprecated_at": None,
            "retires_at": f"{ends.isoformat()}T00:00:00Z" if ends else None,
            "line": family_of(self.id),
            "capabilities": None,
            "max_input_tokens": self.entry.context_window if self.entry else None,
            "max_tokens": self.entry.max_output_tokens if self.entry else None,
            "trivet": {
                "routes": [_described_route(route, self.id, named, now) for route, named in self.routes],
                "successor": next(iter(lasting(family_of(self.id))), None) if ends else None,
            },
        }


def served_models(gateway: Gateway) -> list[ServedModel]:
    """Return the models that a route in service serves: of the catalog the newest first, then others by name."""
    serving = [route for route in gateway.admin.routes.known() if not route.drained]
    today = day_of(gateway.admin.now())
    others = sorted({name for route in serving for name in route.settings.models if known(name) is None})
    found: list[ServedModel] = []
    for name, entry in [*((model.id, model) for model in MODELS), *((name, None) for name in others)]:
        by = tuple(
            (route, named)
            for route in serving
            if (named := name_on_wire(route.settings, name)) and retired_on(name, route.settings, today) is None
        )
        if by:
            found.append(ServedModel(name, entry, by))
    return found


def _lifecycles(query: QueryParams) -> frozenset[str]:
    """Return the lifecycles that are asked for; without any, all."""
    given = [word for name in ("lifecycle", "lifecycle[]") for text in query.getlist(name) for word in text.split(",")]
    if unknown := sorted(set(given) - LIFECYCLES):
        raise ApiError(400, f"lifecycle: {unknown[0][:40]!r} is none of {', '.join(sorted(LIFECYCLES))}.")
    return frozenset(given) or LIFECYCLES


class Page(NamedTuple):
    """A part of a list."""

    ids: frozenset[str]
    more: bool
    """True if the list goes on in the direction that was asked for."""


def page_of(ids: Sequence[str], query: QueryParams) -> Page:
    """Return the page that `limit` and `after_id` or `before_id` ask for.

    Raises:
        ApiError: 400; names the parameter.
    """
    limit = query.get("limit", str(PAGE))
    if not (limit.isascii() and limit.isdecimal() and len(limit) < 8 and 1 <= int(limit) <= MAX_PAGE):
        raise ApiError(400, f"limit: must be a whole number from 1 to {MAX_PAGE:,}.")
    after, before = query.get("after_id"), query.get("before_id")
    if after is not None and before is not None:
        raise ApiError(400, "before_id: give after_id or before_id, not both.")
    if before is not None:
        rest = ids[: _index(ids, before, "before_id")]
        return Page(frozenset(rest[-int(limit) :]), len(rest) > int(limit))
    rest = ids if after is None else ids[_index(ids, after, "after_id") + 1 :]
    return Page(frozenset(rest[: int(limit)]), len(rest) > int(limit))


def _index(ids: Sequence[str], cursor: str, field: str) -> int:
    entry = known(cursor)
    name = entry.id if entry is not None else cursor
    if name not in ids:
        raise ApiError(400, f"{field}: {cursor[:100]!r} is none of the models of this list.")
    return ids.index(name)


def _described_route(route: KnownRoute, model: str, named: str, now: float) -> dict[str, Any]:
    settings = route.settings
    group = settings.group_of(model)
    limits = {name: getattr(group or settings, name) for name in _FIGURES}
    if limits["max_concurrency"] is None:
        limits["max_concurrency"] = settings.max_concurrency
    return {
        "name": route.name,
        "provider": settings.provider,
        "region": settings.region,
        "residency": list(settings.residency),
        "compliance": list(settings.compliance),
        "prices_usd_per_million": _prices(settings, model, named, now),
        "limits": limits,
    }


def _prices(settings: RouteSettings, model: str, named: str, now: float) -> dict[str, str] | None:
    """Return the prices of usual prompts, USD per million tokens; None: not known."""
    tiers = _costs.tariff(settings, model, named, now).tiers if _costs.known else ()
    return {kind: _plain(getattr(tiers[-1], kind) * 1_000_000) for kind in _KINDS} if tiers else None


def _plain(amount: Decimal) -> str:
    return f"{amount.normalize():f}"


def _ends(model: str, serving: Iterable[RouteSettings]) -> date | None:
    """Return the day on which the last of these routes loses the model; None: one of them keeps it."""
    days: list[date] = []
    for settings in serving:
        retirement = retirement_on(model, settings)
        if retirement is None or not retirement.announced:
            return None
        days.append(retirement.day)
    return max(days, default=None)


def _display_name(model: str) -> str:
    """Return the name as people write it: `Claude Haiku 4.5` of `claude-haiku-4-5`."""
    words = model.split("-")
    number = [word for word in words if word.isdigit()]
    return " ".join(
        [*(word.capitalize() for word in words if not word.isdigit()), *([".".join(number)] if number else [])]
    )


def _created_at(entry: Model | None) -> str:
    """Return the date in the name of the model's snapshot, if it has one."""
    for name in (entry.anthropic, *entry.aliases) if entry else ():
        if name and (found := _DAY.search(name)):
            return f"{'-'.join(found.groups())}T00:00:00Z"
    return _UNKNOWN
