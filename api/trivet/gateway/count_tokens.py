"""`POST /v1/messages/count_tokens`: the input tokens of a request, as the healthiest route counts them.

It makes no job and costs nothing.
"""

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trivet.gateway.context import Gateway
from trivet.gateway.errors import ApiError
from trivet.gateway.requests import body_of, read_asked
from trivet.gateway.route_counts import CountTerms
from trivet_tasks.catalog import known
from trivet_tasks.requests.features import features_of
from trivet_tasks.requests.request_terms import read_names

GENERAL = "token-counting-2024-11-01"
"""Beta that official clients still name for counts of theirs; counting needs none any more."""


def routes() -> list[Route]:
    """Return the route of token counts."""
    return [Route("/v1/messages/count_tokens", count_tokens, methods=["POST"])]


async def count_tokens(request: Request) -> Response:
    """Answer with the number of input tokens of a request, and the route that counted them in `x-trivet-route`."""
    gateway: Gateway = request.app.state.gateway
    principal = await gateway.access.admit(request.headers)
    with gateway.admitted():
        async with body_of(request) as (body, size):
            fields = read_asked(request.headers, body).fields
            model = _model_of(body)
            principal.check_model(model)
            sent = _as_sent(body, fields)
            terms = CountTerms(
                model,
                read_names([*fields.get("residency", ()), *principal.residency], "residency"),
                read_names([*fields.get("compliance", ()), *principal.compliance], "compliance"),
                features_of(sent, size),
            )
            choose = gateway.counting.choose
            choice = await gateway.run(choose, gateway.admin, gateway.settings.routes, terms)
            found = await gateway.counting.count(sent, terms, choice, gateway.run)
    answer = orjson.dumps({"input_tokens": found.tokens})
    return Response(answer, headers={"x-trivet-route": found.route}, media_type="application/json")


def _model_of(body: Mapping[str, Any]) -> str:
    """Return the model by its first-party id, if the catalog knows it.

    Raises:
        ApiError: 400; there is no model, or there are no messages.
    """
    model, messages = body.get("model"), body.get("messages")
    if not isinstance(model, str) or not model:
        raise ApiError(400, "model: is missing; give a model's id.")
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "messages: is missing; give a list of at least one message.")
    entry = known(model)
    return entry.id if entry is not None else model


def _as_sent(body: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request for a route's wire, with the betas of its header."""
    sent = {name: value for name, value in body.items() if name not in ("model", "betas")}
    named = body.get("betas")
    betas = [
        *(named if isinstance(named, list) else ()),
        *fields.get("extra_headers", {}).get("anthropic-beta", "").split(","),
    ]
    if kept := list(dict.fromkeys(text for beta in betas if (text := str(beta).strip()) not in ("", GENERAL))):
        sent["anthropic_beta"] = kept
    return sent
