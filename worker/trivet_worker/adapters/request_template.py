"""Template of the SDK's request for its wire, taken from one it has sent, to send others like it.

The SDK works out URL, headers and body of every call anew: 0.7 ms of the 1.5 ms of CPU that a call through its `post` costs
(`benchmarks/call_layers.py`). For a route, a model and a key all of that comes out the same but for the body and
our attempt's id. So the first call goes through the SDK, and later ones are made from its template and sent over the
same HTTP client, with its pool, its proxies and its signature.
"""

from dataclasses import dataclass
from typing import Any

import httpx2
import orjson

from trivet_worker.adapters.wire import Posted

ATTEMPT_HEADER = "x-trivet-attempt"
_OF_ONE_CALL = frozenset({b"content-length", b"cookie", b"authorization", ATTEMPT_HEADER.encode()})
_OF_ONE_SIGNATURE = b"x-amz-"


@dataclass(frozen=True, slots=True, repr=False)
class RequestTemplate:
    """Template of one route, model and key. It holds the key, so it has no repr."""

    url: httpx2.URL
    headers: tuple[tuple[bytes, bytes], ...]
    extensions: dict[str, Any]
    added: dict[str, Any]
    """Keys of the body that the SDK adds where they are missing."""
    dropped: frozenset[str]
    """Keys of the body that the SDK takes out: they go into the URL."""

    @classmethod
    def of(cls, posted: Posted, sent: httpx2.Request, *, signed: bool) -> "RequestTemplate":
        """Make the template of a request that the SDK has sent.

        Args:
            posted: what the SDK was given.
            sent: what it made of that.
            signed: the HTTP client signs each request; nothing of a signature is kept then.
        """
        left = _OF_ONE_CALL if signed else _OF_ONE_CALL - {b"authorization"}
        left |= {name.encode() for name, _ in posted.of_call}
        made = orjson.loads(sent.content)
        return cls(
            sent.url,
            tuple(
                (name, value)
                for name, value in sent.headers.raw
                if name.lower() not in left and not (signed and name.lower().startswith(_OF_ONE_SIGNATURE))
            ),
            sent.extensions,
            {name: value for name, value in made.items() if name not in posted.body},
            frozenset(posted.body.keys() - made.keys()),
        )

    def cut(self, posted: Posted, attempt_id: str, timeout: httpx2.Timeout) -> httpx2.Request:
        """Make a request from this template."""
        kept = {name: value for name, value in posted.body.items() if name not in self.dropped}
        return httpx2.Request(
            "POST",
            self.url,
            headers=[
                *self.headers,
                *((name.encode(), value.encode()) for name, value in posted.of_call),
                (ATTEMPT_HEADER.encode(), attempt_id.encode()),
            ],
            content=orjson.dumps({**self.added, **kept}),
            extensions={**self.extensions, "timeout": timeout.as_dict()},
        )
