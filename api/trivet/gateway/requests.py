"""Reading of a request, bounded: its body as JSON."""

from typing import Any

import orjson
from starlette.requests import Request

from trivet.gateway.errors import ApiError

MAX_BODY_BYTES = 32 * 2**20
"""Maximum size of a body, as of the Messages API."""


async def read_json(request: Request, most: int = MAX_BODY_BYTES) -> dict[str, Any]:
    """Return the body, a JSON object.

    Raises:
        ApiError: 413 for a larger one, 400 for one that is no JSON object.
    """
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > most:
            raise ApiError(413, f"The request is larger than {most:,} bytes.")
        pieces.append(piece)
    try:
        body = orjson.loads(b"".join(pieces))
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"The body is no JSON: {error.msg} at character {error.pos}.") from None
    if not isinstance(body, dict):
        raise ApiError(400, "The body must be a JSON object.")
    return body
