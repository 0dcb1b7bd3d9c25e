"""Rules of whether a route, as configured, ever takes a job. Used by routing, and at submit where it decides on a field."""

from collections.abc import Mapping

from trivet_tasks.catalog import wire_model
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.dialects import Dialect, default_version
from trivet_tasks.errors import InvalidRequest
from trivet_tasks.jobs import JobSpec
from trivet_tasks.requests.features import VERSIONED, field_of, lacks, refused_since, shown_features

_WORDS = {
    "sampling": "temperature, top_p and top_k",
    "assistant_documents": "documents in messages of the assistant",
    "user_citations": "citations on text of the user",
}
_BEFORE_2026_10_21 = "2023-06-01"


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
    """Why a route never takes a job that asks for this; empty = it fits.

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
    """Refuse what only another version of the API takes than those that the routes for this job speak.

    Routes that would not take the job anyway do not count; without any that would, the job waits for one as it always did.

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
