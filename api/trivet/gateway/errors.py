"""Errors of the gateway in the shape of the Anthropic API, with the status that official clients expect.

Example:
    {"type": "error", "error": {"type": "rate_limit_error", "message": "…"}, "request_id": "req_…"}
"""

import logging
import math
from collections.abc import Mapping

import orjson
from starlette.responses import Response

from trivet.gateway.principal import AccessError, RateLimited, Unauthenticated
from trivet_tasks.errors import (
    BatchIncomplete,
    BatchTaken,
    BrokerUnavailable,
    ClientClosed,
    InvalidRequest,
    KeyConflict,
    NotFound,
    ResultTimeout,
    SetByOperator,
    StoreError,
    TrivetError,
    UnknownModel,
)

log = logging.getLogger("trivet.gateway")

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    409: "invalid_request_error",
    413: "request_too_large",
    415: "invalid_request_error",
    431: "invalid_request_error",
    429: "rate_limit_error",
    500: "api_error",
    503: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}
"""`error.type` by status, as docs.anthropic.com lists them; 409 has none of its own there."""


class ApiError(Exception):
    """An answer other than success, e.g. `ApiError(404, "There is no job of this id.")`.

    Args:
        status: HTTP status.
        message: sentences for a person: what is wrong, where, what to do. No secret, no prompt.
        headers: further headers, e.g. `retry-after`.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})

    def body(self, request_id: str) -> bytes:
        """Return the error as JSON."""
        # it may quote half of a surrogate pair, which has no UTF-8
        message = self.message.encode(errors="replace").decode()
        error = {"type": KINDS.get(self.status, "api_error"), "message": message}
        return orjson.dumps({"type": "error", "error": error, "request_id": request_id})

    def response(self, request_id: str) -> Response:
        """Return the whole answer."""
        return Response(self.body(request_id), self.status, self.headers, media_type="application/json")


_AWAY = {
    StoreError: "The database of this Trivet does not answer. Try again shortly.",
    BrokerUnavailable: "The broker of this Trivet does not answer. Try again shortly.",
}
"""Words for clients: the errors' own name servers and files, and go to the log."""
LONGEST_RETRY_S = 60.0
"""Seconds of `retry-after` up to which official clients wait and repeat a request by themselves."""
_STATUS: tuple[tuple[type[TrivetError], int], ...] = (
    (KeyConflict, 409),
    (BatchTaken, 409),
    (BatchIncomplete, 409),
    (SetByOperator, 403),
    (UnknownModel, 404),
    (InvalidRequest, 400),
    (NotFound, 404),
    (ResultTimeout, 504),
    (BrokerUnavailable, 503),
    (StoreError, 503),
    (ClientClosed, 503),
)


def of_access(error: AccessError) -> ApiError:
    """Return the answer for a request that its key does not allow."""
    match error:
        case Unauthenticated():
            return ApiError(401, error.message, {"www-authenticate": "Bearer", "x-should-retry": "false"})
        case RateLimited(retry_after_s=float() | int() as seconds) if seconds <= LONGEST_RETRY_S:
            again = {"x-should-retry": "true", "retry-after": str(max(1, math.ceil(seconds)))}
            return ApiError(429, error.message, again)
        case RateLimited(retry_after_s=seconds):  # a budget whose window turns in hours
            later = {} if seconds is None else {"retry-after": str(math.ceil(seconds))}
            return ApiError(429, error.message, {"x-should-retry": "false", **later})
        case _:
            return ApiError(403, error.message, {"x-should-retry": "false"})


def of_trivet(error: TrivetError) -> ApiError:
    """Return the answer for an error that Trivet raises for a person to read."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    again = {"x-should-retry": "true", "retry-after": "1"} if status == 503 else {"x-should-retry": "false"}
    words = next((words for kind, words in _AWAY.items() if isinstance(error, kind)), None)
    if words is not None:
        log.warning("a request is answered with %d: %s", status, error)
    return ApiError(status, words or str(error), again)
