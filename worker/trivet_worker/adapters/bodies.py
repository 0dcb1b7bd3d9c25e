"""Reading the bodies of answers, of bounded size once decoded.

httpx2 decodes gzip and deflate in pieces of at most 1 MiB, so a bound on their sum bounds the memory. A reader that
stops closes the response: the connection is then dropped, not read to its end.
"""

import contextlib
from collections.abc import AsyncGenerator

import anthropic
import httpx2

from trivet_worker.adapters.network import NETWORK_ERRORS
from trivet_worker.adapters.stream_events import TooLarge

MAX_ANSWER_BYTES = 64 * 2**20
"""The largest answer that is read, decoded. 300,000 tokens have 2 MB."""
MAX_ERROR_BYTES = 2**20
"""The largest body of an error that is read, decoded."""
_ENCODINGS = frozenset({"", "identity", "gzip", "deflate"})


class Refused(anthropic.AnthropicError):
    """An answer that is no 2xx. `body` is its decoded text, empty where it was too large or could not be read."""

    def __init__(self, status: int, headers: httpx2.Headers, body: str) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.headers = headers
        self.body = body


async def refuse(response: httpx2.Response) -> None:
    """Raise `Refused` for an answer that is no 2xx. A hook of the HTTP client: the SDK would read all of its body."""
    if response.is_success:
        return
    try:
        body = await read(response, MAX_ERROR_BYTES, response.headers.get("content-encoding", ""))
    except (TooLarge, *NETWORK_ERRORS):  # the status is an answer all the same
        body = b""
    finally:
        await response.aclose()
    raise Refused(response.status_code, response.headers, body.decode("utf-8", "replace"))


async def read(response: httpx2.Response, most: int, encoding: str = "") -> bytes:
    """The whole decoded body, whose `content-encoding` is `encoding`.

    Raises:
        TooLarge: it has more than `most` bytes; the response is to be closed then.
    """
    async with contextlib.aclosing(pieces(response, most, encoding)) as parts:
        return b"".join([part async for part in parts])


async def pieces(response: httpx2.Response, most: int, encoding: str = "") -> AsyncGenerator[bytes, None]:
    """The decoded body as it comes. TooLarge once it has more than `most` bytes."""
    if encoding and not all(one.strip().lower() in _ENCODINGS for one in encoding.split(",")):
        raise TooLarge("the answer is in an encoding that was not asked for")
    left = most
    async with contextlib.aclosing(response.aiter_bytes()) as parts:
        async for part in parts:
            left -= len(part)
            if left < 0:
                raise TooLarge(f"the answer is larger than {most // 2**20} MB")
            yield part
