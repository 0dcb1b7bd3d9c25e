"""The OpenAPI document of the gateway: from the declared operations, and the Anthropic API by hand. `GET /openapi.json`."""

import re
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from importlib.metadata import version
from inspect import cleandoc
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from trivet.gateway.anthropic_document import PATHS, anthropic_schemas
from trivet.gateway.resources import operations
from trivet.gateway.resources.operation import Answer, Operation, Parameters
from trivet.gateway.resources.schemas import REFERENCE, Schema, answer_schemas, many, ref

ADDRESS = "/openapi.json"
ALWAYS = (400, 401, 403, 429, 500, 503)
"""Statuses of errors that every operation may answer with."""
ERRORS = {
    400: "The request is wrong; the message names the field, the parameter or the line.",
    401: "There is no valid key.",
    403: "The key does not allow it.",
    404: "There is no such thing, or the key may not see it.",
    408: "The body came too slowly.",
    409: "It contradicts what is there: a key with another request, or a state that does not allow it.",
    413: "The body is too large.",
    415: "The body is compressed.",
    429: "The rate or the budget of the key is used up.",
    500: "A fault of Trivet's own; the gateway's log has the request's id.",
    503: "The database, the broker or the shared state does not answer.",
    504: "The time for the answer is over.",
    529: "The gateway or every route is overloaded.",
}
DESCRIPTION = """
The HTTP gateway of Trivet: the Anthropic Messages API on top of durable jobs, and Trivet's own resources.

Amounts are strings, exact. Times are seconds since the epoch; of costs and budgets, ISO 8601. A key of a tenant sees the
work of that tenant alone, a key without one the work without a tenant, an admin key all.
"""
TAGS = {
    "messages": "The Anthropic API: any of its clients works with the gateway's address as its base URL.",
    "jobs": "Single requests, submitted without waiting.",
    "batches": "Many requests under one name.",
    "operation": "Routes, costs, budgets and events.",
}


DESCRIBED = frozenset({*PATHS, *(one.path for one in operations()), ADDRESS})
"""Paths of which there is a description."""


def document_route() -> Route:
    """Return the route of the document. It needs no key."""
    return Route(ADDRESS, _document, methods=["GET"], name="openapi")


async def _document(request: Request) -> Response:
    return Response(_as_json(frozenset(paths_of(request.app.routes))), media_type="application/json")


def paths_of(routes: Iterable[BaseRoute]) -> set[str]:
    """Return the paths of routes as the document names them: `/v1/models/{id}`, also of `/v1/models/{id:path}`."""
    return {re.sub(r":\w+}", "}", route.path) for route in routes if isinstance(route, Route)}


@lru_cache(maxsize=1)
def _as_json(served: frozenset[str]) -> bytes:
    return orjson.dumps(document(served))


def document(served: Collection[str]) -> Schema:
    """Return the OpenAPI 3.1 document of what is served.

    sorted(document(["/v1/messages", "/trivet/v1/jobs"])["paths"])

    Args:
        served: paths, as the application has them.
    """
    components = {**answer_schemas(), **anthropic_schemas(), "EventStream": {"type": "string"}}
    paths: dict[str, Schema] = {}
    for path, methods in PATHS.items():
        paths[path] = {
            method: {
                **{name: value for name, value in one.items() if name != "errors"},
                "responses": {**one["responses"], **_errors(one["errors"])},
            }
            for method, one in methods.items()
        }
    for one in operations():
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, components)
    paths[ADDRESS] = {"get": _of_document()}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Trivet", "version": version("trivet"), "description": cleandoc(DESCRIPTION)},
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "security": [{"ApiKey": []}, {"Bearer": []}],
        "paths": {path: found for path, found in paths.items() if path in served},
        "components": {
            "schemas": dict(sorted(components.items())),
            "securitySchemes": {
                "ApiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "Bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _operation(one: Operation, components: dict[str, Schema]) -> Schema:
    summary, _, description = cleandoc(one.handler.__doc__ or "").partition("\n")
    if one.admin:
        description += "\n\nFor admin keys alone."
    found: Schema = {
        "operationId": one.handler.__name__,
        "tags": [one.tag],
        "summary": summary.rstrip("."),
        "parameters": [
            *_parameters(one.address, "path", components),
            *_parameters(one.query, "query", components),
            *(
                {"name": name, "in": "header", "required": False, "description": text, "schema": {"type": "string"}}
                for name, text in one.headers.items()
            ),
        ],
        "responses": {
            **{str(status): _answer(answer) for status, answer in one.answers.items()},
            **_errors(one.errors),
        },
    }
    if description.strip():
        found["description"] = description.strip()
    if one.body is not None:
        schema = ref(one.body.schema) if isinstance(one.body.schema, str) else _component(one.body.schema, components)
        found["requestBody"] = {"required": one.body.required, "content": {one.body.media_type: {"schema": schema}}}
    return found


def _parameters(model: type[Parameters], where: str, components: dict[str, Schema]) -> list[Schema]:
    schema = model.model_json_schema(ref_template=REFERENCE)
    components |= schema.pop("$defs", {})
    return (
        [
            {
                "name": name,
                "in": where,
                "required": name in schema.get("required", ()),
                "description": one.pop("description", ""),
                "schema": _plain(one),
            }
            for name, one in schema["properties"].items()
        ]
        if "properties" in schema
        else []
    )


def _component(model: type[Parameters], components: dict[str, Schema]) -> Schema:
    schema = model.model_json_schema(ref_template=REFERENCE)
    components |= schema.pop("$defs", {})
    schema["properties"] = {
        name: {"description": one.pop("description", ""), **_plain(one)} for name, one in schema["properties"].items()
    }
    schema.pop("title", None)
    components[model.__name__] = schema
    return ref(model.__name__)


def _plain(schema: Schema) -> Schema:
    """Return the schema of a parameter that is given: without its title, and without null."""
    kept: dict[str, Any] = {name: value for name, value in schema.items() if name != "title"}
    options = [one for one in kept.pop("anyOf", []) if one != {"type": "null"}]
    if kept.get("default", "") is None:
        del kept["default"]
    return {**kept, **options[0]} if len(options) == 1 else {**kept, **({"anyOf": options} if options else {})}


def _answer(answer: Answer) -> Schema:
    found: Schema = {"description": answer.description}
    if answer.schema is not None:
        schema = many(ref(answer.schema)) if answer.many else ref(answer.schema)
        if answer.media_type == "application/x-ndjson":
            schema = {"type": "string", "description": f"Lines, each a `{answer.schema}`."}
        found["content"] = {answer.media_type: {"schema": schema}}
    if answer.headers:
        found["headers"] = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in answer.headers.items()
        }
    return found


def _errors(further: Sequence[int]) -> dict[str, Schema]:
    content = {"application/json": {"schema": ref("Error")}}
    statuses = sorted({*ALWAYS, *further})
    return {str(status): {"description": ERRORS[status], "content": content} for status in statuses}


def _of_document() -> Schema:
    content = {"application/json": {"schema": {"type": "object"}}}
    return {
        "operationId": "openapi",
        "tags": ["operation"],
        "summary": "Return this document",
        "security": [],
        "responses": {"200": {"description": "The document.", "content": content}},
    }
