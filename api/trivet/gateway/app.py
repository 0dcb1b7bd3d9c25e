"""The ASGI application: its routes, the errors of all of them, and the id of each request."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils import uuid7

from trivet.gateway import count_tokens, messages, models
from trivet.gateway.context import Gateway
from trivet.gateway.errors import ApiError, of_access, of_trivet
from trivet.gateway.openapi import document_route
from trivet.gateway.principal import AccessError
from trivet.gateway.resources import resource_routes
from trivet_tasks.errors import TrivetError, place_of

log = logging.getLogger("trivet.gateway")
_OWN_FAULT = "A fault of Trivet's own; the gateway's log names it by this request's id."


def served_routes() -> list[BaseRoute]:
    """Return all routes of the application."""
    return [
        Route("/healthz", alive),
        *messages.routes(),
        *count_tokens.routes(),
        *models.routes(),
        *resource_routes(),
        document_route(),
    ]


def make_app(gateway: Gateway) -> ASGIApp:
    """Return the application over one gateway, which it starts, and stops at its end."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await gateway.start()
        try:
            yield
        finally:
            await gateway.stop()

    app = Starlette(
        routes=served_routes(),
        lifespan=lifespan,
        exception_handlers={
            ApiError: _answer_error,
            AccessError: _answer_error,
            TrivetError: _answer_error,
            HTTPException: _answer_error,
        },
        middleware=[Middleware(RequestIds)],
    )
    app.state.gateway = gateway
    return app


async def alive(_: Request) -> Response:
    """Answer that this process serves requests."""
    return Response(b'{"status":"ok"}', media_type="application/json")


class RequestIds:
    """Gives each request an id, `req_…`, and each answer the header `request-id` unless it has one.

    An unexpected exception ends here: Starlette and uvicorn would log its text, which may hold a prompt.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"req_{uuid7().hex}"
        scope.setdefault("state", {})["request_id"] = request_id
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = message.setdefault("headers", [])
                known = {name for name, _ in headers}
                headers += [(name, value) for name, value in scope["state"].get("headers", ()) if name not in known]
                if not any(name == b"request-id" for name, _ in headers):
                    headers.append((b"request-id", request_id.encode()))
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception as error:
            log.error("the request %s failed: %s", request_id, place_of(error))
            if not started:  # else uvicorn closes the connection of an answer without an end
                # repeated, its job might be paid twice
                fault = ApiError(500, _OWN_FAULT, {"x-should-retry": "false"})
                await fault.response(request_id)(scope, receive, sending)


def _answer_error(request: Request, error: Exception) -> Response:
    request_id: str = request.state.request_id
    return _as_api_error(request, error).response(request_id)


def _as_api_error(request: Request, error: Exception) -> ApiError:
    match error:
        case ApiError():
            return error
        case AccessError():
            return of_access(error)
        case TrivetError():
            return of_trivet(error)
        case HTTPException(status_code=404):
            return ApiError(404, f"There is nothing at {request.url.path!r}.")
        case HTTPException():
            return ApiError(error.status_code, f"{error.detail}.", error.headers)
        case _:
            raise error
