"""Differences between the three wires, as the caller sees them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import anthropic
import httpx2

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


EXTRA_HEADERS = "extra_headers"
"""Key of a stored body: headers that the request brings."""


class NotReady(Exception):
    """No call can be made: no key, no credentials, no project. Its text is for a person.

    `transient` is True where the place the credentials come from could not be asked just now.
    """

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


@dataclass(frozen=True, slots=True, repr=False)
class Posted:
    """Arguments for the SDK client's `post`. It holds a prompt, so it has no repr."""

    body: dict[str, Any]
    model: str
    headers: tuple[tuple[str, str], ...] = ()
    of_call: tuple[tuple[str, str], ...] = ()
    """Headers that differ from call to call, those that the request brings (`extra_headers`) included."""
    as_it_is: bool = False
    """The body is what the wire wants; otherwise the SDK rewrites it."""


def beta_header(sent: dict[str, Any], provider: Provider) -> tuple[tuple[str, str], ...]:
    """Take the betas out of a body and return them as the header of a wire that takes them so."""
    betas = named_betas(sent.pop(BETAS, None), provider)
    return (("anthropic-beta", ",".join(betas)),) if betas else ()


def named_betas(betas: object, provider: Provider) -> tuple[str, ...]:
    """The betas of a body, a list or a text with commas, by the names that the provider has for them."""
    names = betas.split(",") if isinstance(betas, str) else betas if isinstance(betas, list | tuple) else ()
    return wire_betas(map(str, names), provider)


def messages_request(body: Body, model: str, version: str, provider: Provider, *, stream: bool) -> Posted:
    """Return the request for a wire that speaks the Anthropic API itself: version and betas are headers, the body is
    sent as it is. Nothing of it needs rewriting, so the SDK's walk over it and its `json.dumps` are saved."""
    sent: dict[str, Any] = {**body, "model": model, "stream": stream}
    if not stream:
        del sent["stream"]
    sent.pop(VERSION, None)
    return Posted(sent, model, (("anthropic-version", version), *beta_header(sent, provider)), as_it_is=True)


class Wire(Protocol):
    """One route's client and what is special about its provider."""

    provider: str
    """Provider in whose words its errors are written."""

    @property
    def client(self) -> SdkClient:
        """The SDK client, built once."""
        ...

    async def ready(self) -> None:
        """Give the client a good key or credentials. Raises NotReady when there are none."""
        ...

    def post(self, body: Body, model: str, purpose: CallPurpose, *, stream: bool) -> Posted:
        """The request as the SDK wants it for this wire, with the version of the API that the route speaks."""
        ...

    @property
    def http(self) -> httpx2.AsyncClient:
        """The HTTP client under the SDK client."""
        ...

    @property
    def signed(self) -> bool:
        """Return whether that HTTP client signs each request."""
        ...

    def identity(self) -> str | None:
        """The key or token that calls go out with now; None where the SDK fetches one for each call."""
        ...

    def refused(self) -> None:
        """Look for new credentials before the next call: the provider refused these."""
        ...

    def secrets(self) -> tuple[str, ...]:
        """Secrets that must not appear in an error's text."""
        ...
