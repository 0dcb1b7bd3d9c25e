"""Requests on the three wires: the interface that each wire gives the caller, and the template of its requests.

The SDK works out URL, headers and body of every call anew: 0.7 ms of the 1.5 ms of CPU that a call through its `post`
costs (`benchmarks/call_layers.py`). For a route, a model and a key all of that comes out the same but for the body and
our attempt's id. So the first call goes through the SDK, and later ones are made from its template and sent over the
same HTTP client, with its pool, its proxies and its signature.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import anthropic
import httpx2
import orjson

from trivet_tasks.catalog import Provider
from trivet_tasks.requests.features import wire_betas
from trivet_worker.adapters.protocol import CallPurpose

Body = Mapping[str, Any]
"""A request of the Messages API, parsed."""
SdkClient = (
    anthropic.AsyncAnthropic
    | anthropic.AsyncAnthropicBedrock
    | anthropic.AsyncAnthropicBedrockMantle
    | anthropic.AsyncAnthropicVertex
)
"""The SDK's client of a wire; that of Claude Platform on AWS is one of the first."""
VERSION = "anthropic_version"
"""Field of the body that names the API's version, on the wires that do not take it as a header."""
BETAS = "anthropic_beta"
"""Field of the body that names betas; wires that take the version as a header take these as one, too."""
ATTEMPT_HEADER = "x-trivet-attempt"
_OF_ONE_CALL = frozenset({b"content-length", b"cookie", b"authorization", ATTEMPT_HEADER.encode()})
_OF_ONE_SIGNATURE = b"x-amz-"


@dataclass(frozen=True, slots=True, repr=False)
class Posted:
    """Arguments for the SDK client's `post`. It holds a prompt, so it has no repr."""

    body: dict[str, Any]
    model: str
    headers: tuple[tuple[str, str], ...] = ()
    of_call: tuple[tuple[str, str], ...] = ()
    """Headers that differ from call to call, with those that the request brings (`extra_headers`)."""
    as_it_is: bool = False
    """True if the body is what the wire wants; otherwise the SDK rewrites it."""


class Wire(Protocol):
    """One route's client and what is special about its provider."""

    provider: str
    """Provider in whose words its errors are written."""
    pings: bool
    """True if its streams carry pings while the model is silent."""

    @property
    def client(self) -> SdkClient:
        """The SDK client, built once."""
        ...

    @property
    def http(self) -> httpx2.AsyncClient:
        """The HTTP client under the SDK client."""
        ...

    @property
    def signed(self) -> bool:
        """True if that HTTP client signs each request."""
        ...

    async def ready(self) -> None:
        """Give the client a good key or credentials. Raises NotReady when there are none."""
        ...

    def post(self, body: Body, model: str, purpose: CallPurpose, *, stream: bool) -> Posted:
        """Return the request as the SDK wants it for this wire, with the version of the API that the route speaks."""
        ...

    def identity(self) -> str | None:
        """Return the key or token that calls go out with now; None where the SDK fetches one for each call."""
        ...

    def forget_credentials(self) -> None:
        """Look for new credentials before the next call: the provider did not accept these."""
        ...

    def secrets(self) -> tuple[str, ...]:
        """Return the secrets that must not appear in an error's text."""
        ...


def messages_request(body: Body, model: str, version: str, provider: Provider, *, stream: bool) -> Posted:
    """Return the request for a wire that speaks the Anthropic API itself: version and betas are headers, the body is
    sent as it is. Nothing of it needs rewriting, so the SDK's walk over it and its `json.dumps` are saved."""
    sent: dict[str, Any] = {**body, "model": model, "stream": stream}
    if not stream:
        del sent["stream"]
    sent.pop(VERSION, None)
    return Posted(sent, model, (("anthropic-version", version), *beta_header(sent, provider)), as_it_is=True)


def beta_header(sent: dict[str, Any], provider: Provider) -> tuple[tuple[str, str], ...]:
    """Take the betas out of a body and return them as the header of a wire that takes them so."""
    betas = named_betas(sent.pop(BETAS, None), provider)
    return (("anthropic-beta", ",".join(betas)),) if betas else ()


def named_betas(betas: object, provider: Provider) -> tuple[str, ...]:
    """Return the betas of a body, a list or a text with commas, by the names that the provider has for them."""
    names = betas.split(",") if isinstance(betas, str) else betas if isinstance(betas, list | tuple) else ()
    return wire_betas(map(str, names), provider)


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
