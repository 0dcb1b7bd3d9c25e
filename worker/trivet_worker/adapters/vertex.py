"""Google Vertex AI, raw prediction."""

import os
from typing import Any

import anthropic
import google.auth.exceptions

from trivet_tasks.config.addresses import api_address
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.errors import ConfigError
from trivet_worker.adapters.connections import TIMEOUT, build_http_client, without_environment
from trivet_worker.adapters.google_auth import process_token
from trivet_worker.adapters.keys import RouteKey
from trivet_worker.adapters.protocol import CallPurpose
from trivet_worker.adapters.wire import VERSION, Body, NotReady, Posted, beta_header

_PROJECT_VARIABLES = ("GOOGLE_CLOUD_PROJECT", "ANTHROPIC_VERTEX_PROJECT_ID")


class VertexWire:
    """A route of provider `vertex`: with an access token, or one from Google's application default credentials."""

    provider = "vertex"
    signed = False

    def __init__(self, route: RouteSettings) -> None:
        self._key = RouteKey(route.api_key) if route.api_key else None
        self._route = route
        self._token = None if self._key else process_token()
        named = (os.environ.get(name) for name in _PROJECT_VARIABLES)
        self._project = route.project or next(filter(None, named), None)
        self._client: anthropic.AsyncAnthropicVertex | None = None
        self.http = build_http_client(route.max_concurrency)
        """The HTTP client under the SDK client."""

    @property
    def client(self) -> anthropic.AsyncAnthropicVertex:
        """The SDK client. Built once. NotReady without a region."""
        if self._client is None:
            region = self._route.region or os.environ.get("CLOUD_ML_REGION")
            if not region:
                raise NotReady("no region: set region of the route")
            self._client = without_environment(
                anthropic.AsyncAnthropicVertex(
                    region=region,
                    base_url=api_address(self._route, region),
                    max_retries=0,
                    timeout=TIMEOUT,
                    http_client=self.http,
                )
            )
        return self._client

    async def ready(self) -> None:
        """Give the client the token of now, and the project."""
        client = self.client
        try:
            if self._key:
                client.access_token = self._key.current()
            elif self._token:
                client.access_token = await self._token.current()
                self._project = self._project or self._token.project
        except ConfigError as error:
            raise NotReady(str(error)) from None
        except google.auth.exceptions.GoogleAuthError as error:
            transient = error.retryable or isinstance(error, google.auth.exceptions.TransportError)
            raise NotReady(f"no Google credentials: {error}", transient=transient) from None
        if not self._project:
            raise NotReady("no project: set project of the route, or GOOGLE_CLOUD_PROJECT")
        client.project_id = self._project

    def post(self, body: Body, model: str, purpose: CallPurpose, *, stream: bool) -> Posted:
        """The request with its API version; the SDK puts the model into the path."""
        version = self._route.version_of(purpose.model)
        sent: dict[str, Any] = {**body, VERSION: version, "model": model, "stream": stream}
        if not stream:
            del sent["stream"]
        return Posted(sent, model, beta_header(sent, "vertex"))

    def identity(self) -> str | None:
        """The access token in use, and the project it is for."""
        return f"{self.client.project_id} {self.client.access_token}"

    def refused(self) -> None:
        """Look for another token next time."""
        if self._key:
            self._key.forget()
        if self._token:
            self._token.forget()

    def secrets(self) -> tuple[str, ...]:
        """The access token in use."""
        return tuple(filter(None, (self.client.access_token,)))
