"""`/trivet/v1/routes`, `/costs`, `/budgets` and `/status`: what an operator reads and changes."""

from collections.abc import Sequence
from decimal import Decimal
from importlib.metadata import version
from typing import Annotated, Any

from pydantic import Field, StringConstraints
from starlette.responses import Response

from trivet.gateway.errors import ApiError
from trivet.gateway.resources.operation import (
    Answer,
    Body,
    BudgetPath,
    Call,
    Operation,
    Parameters,
    RoutePath,
    Text,
    json_answer,
)
from trivet.json_objects import budgets_object, cluster_object, costs_object
from trivet.periods import period
from trivet_tasks.errors import ProbeNotMade

SHOWN_TO_ALL = ("route", "provider", "region", "drained", "known", "models")
"""Parts of a route that keys without admin rights see: nothing of others' work, spending or machines."""
MAX_GROUPS = 4
"""Maximum number of names that costs are grouped by: each multiplies the rows."""
MAX_ROWS = 10_000
Amount = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,12}(\.[0-9]{1,12})?$")]
"""USD as a decimal."""


class CostsQuery(Parameters):
    """Choice and grouping of costs."""

    by: Annotated[str, StringConstraints(max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")] = "route"
    """Up to four by comma: route, model, provider, class, batch, tenant, tag:NAME, hour, day, month, outcome, purpose, role."""
    since: Annotated[str, StringConstraints(max_length=40)] = "30d"
    """Beginning: 7d, 24h, 30m, or a moment in ISO 8601 (UTC where it names no zone)."""
    until: Annotated[str, StringConstraints(max_length=40)] | None = None
    """End, which is not in it; as `since`. Default: now."""


class DrainBody(Parameters):
    """A drain."""

    why: Annotated[str, Field(max_length=300)] = ""
    """Reason, shown with the route."""


class ProbeBody(Parameters):
    """A probe."""

    model: Text | None = None
    """A model that the route serves. Default: one in use."""


class RaiseBody(Parameters):
    """A new limit of a budget in its current window."""

    usd: Amount
    """USD that may be spent in this window, in all, as a string: `"250"`."""


def operations() -> Sequence[Operation]:
    """Return the operations on routes, costs and budgets."""
    return (
        Operation(
            "GET",
            "/trivet/v1/status",
            get_status,
            "operation",
            {200: Answer("The version, what the key may do, and whether something is wrong.", "Status")},
        ),
        Operation(
            "GET",
            "/trivet/v1/routes",
            list_routes,
            "operation",
            {200: Answer("The routes with their health, limits and headroom.", "Routes")},
        ),
        Operation(
            "POST",
            "/trivet/v1/routes/{name}/drain",
            drain_route,
            "operation",
            {200: Answer("What was drained.", "DrainedRoute")},
            address=RoutePath,
            body=Body(DrainBody, required=False),
            admin=True,
            errors=(404,),
        ),
        Operation(
            "POST",
            "/trivet/v1/routes/{name}/restore",
            restore_route,
            "operation",
            {200: Answer("What was restored.", "RestoredRoute")},
            address=RoutePath,
            admin=True,
            errors=(404,),
        ),
        Operation(
            "POST",
            "/trivet/v1/routes/{name}/probe",
            probe_route,
            "operation",
            {200: Answer("The outcome of the call, and the next step.", "ProbedRoute")},
            address=RoutePath,
            body=Body(ProbeBody, required=False),
            admin=True,
            errors=(404, 409),
        ),
        Operation(
            "GET",
            "/trivet/v1/costs",
            get_costs,
            "operation",
            {200: Answer("Costs by group and in all; amounts are strings, exact.", "Costs")},
            query=CostsQuery,
        ),
        Operation(
            "GET",
            "/trivet/v1/budgets",
            list_budgets,
            "operation",
            {200: Answer("The budgets in their windows; amounts are strings, exact.", "Budgets")},
        ),
        Operation(
            "POST",
            "/trivet/v1/budgets/{name}/raise",
            raise_budget,
            "operation",
            {200: Answer("The limit that is in force now.", "RaisedBudget")},
            address=BudgetPath,
            body=Body(RaiseBody),
            admin=True,
            errors=(404,),
        ),
    )


async def get_status(call: Call) -> Response:
    """Show the version, what the key may do, and whether something is wrong.

    What is wrong, and how many jobs there are, is for admin keys.
    """
    admin, key = call.gateway.admin, call.principal
    wrong = await call.run(admin.health.impairments)
    found: dict[str, Any] = {
        "version": version("trivet"),
        "now": await call.run(admin.now),
        "held_up": any(one.holds_up for one in wrong),
        "key": {
            "name": key.name,
            "admin": key.admin,
            "tenant": key.tenant,
            "classes": sorted(one.value for one in key.classes),
            "models": list(key.models),
            "residency": list(key.residency),
            "compliance": list(key.compliance),
            "budget": key.budget,
            "requests_per_minute": key.requests_per_minute,
        },
        "impairments": [],
        "jobs": None,
    }
    if key.admin:
        backlog = await call.run(lambda: admin.health.backlog(batches=1))
        found["impairments"] = list(wrong)
        found["jobs"] = {"waiting": backlog.waiting, "dispatched": backlog.dispatched, "running": backlog.running}
    return json_answer(found)


async def list_routes(call: Call) -> Response:
    """List the routes with their health, limits and headroom.

    For an admin key also their jobs and spending, the processes and what is wrong: all that `trivet routes --json` prints.
    """
    status = await call.run(call.gateway.admin.routes.status)
    found = cluster_object(status)
    if not call.principal.admin:
        routes = [{name: route[name] for name in SHOWN_TO_ALL} for route in found["routes"]]
        found = {"routes": routes, "now": found["now"]}
    return json_answer(found)


async def drain_route(call: Call) -> Response:
    """Send a route no more jobs: within two seconds its queue is empty. It stays out until it is restored."""
    done = await call.run(lambda: call.gateway.admin.routes.drain(call.path.name, why=call.body.why, by=call.by))
    return json_answer({**done._asdict(), "drained": True})


async def restore_route(call: Call) -> Response:
    """Put a route back into service; its failures, pauses and learned limits are cleared."""
    done = await call.run(lambda: call.gateway.admin.routes.restore(call.path.name, by=call.by))
    return json_answer({**done._asdict(), "drained": False})


async def probe_route(call: Call) -> Response:
    """Make one probe of a route now: a call of one token by a worker, priced like any other. It takes some seconds."""
    try:
        with call.gateway.admitted():
            done = await call.run(lambda: call.gateway.admin.routes.probe(call.path.name, model=call.body.model))
    except ProbeNotMade as error:
        raise ApiError(409, str(error)) from None
    return json_answer(done)


async def get_costs(call: Call) -> Response:
    """Report the costs of calls by group; those of the key's tenant alone, unless it is an admin key."""
    query: CostsQuery = call.query
    by = list(dict.fromkeys(name.strip() for name in query.by.split(",") if name.strip()))
    if len(by) > MAX_GROUPS:
        raise ApiError(400, f"by: names {len(by)} groups; at most {MAX_GROUPS}.")
    admin = call.gateway.admin

    def read() -> Any:
        start, end = period(query.since, query.until, admin.now(), options=("since", "until"))
        report = admin.costs.report(by, since=start, until=end, scope=call.scope)
        if len(report.rows) > MAX_ROWS:
            raise ApiError(400, f"by: makes {len(report.rows):,} groups; at most {MAX_ROWS:,}. Ask for a shorter span.")
        return costs_object(report)

    return json_answer(await call.run(read))


async def list_budgets(call: Call) -> Response:
    """List budgets with what is spent, reserved and left; those of the key and its tenant, unless it is an admin key."""
    own = [] if call.principal.budget is None else [call.principal.budget]
    found = await call.run(lambda: call.gateway.admin.budgets.list(scope=call.scope, also=own))
    return json_answer(budgets_object(found))


async def raise_budget(call: Call) -> Response:
    """Raise a budget's limit in its current window; the next window has the configured amount again."""
    usd = Decimal(call.body.usd)
    done = await call.run(lambda: call.gateway.admin.budgets.raise_limit(call.path.name, usd, by=call.by))
    return json_answer(done._asdict())
