"""Google Vertex AI, raw prediction."""

from functools import cached_property
from typing import Any

import anthropic

from trivet_tasks.config.addresses import api_address, project_of, region_of
from trivet_tasks.config.route_settings import RouteSettings
from trivet_worker.adapters.credentials import NotReady, RouteKey, process_token
from trivet_worker.adapters.http import TIMEOUT, build_http_client, without_environment
from trivet_worker.adapters.protocol import CallPurpose
from trivet_worker.adapters.wire import VERSION, Body, Posted, beta_header


class VertexWire:
    """A route of provider `vertex`: with an access token, or one from Google's application default credentials."""

    provider = "vertex"
    pings = True
    signed = False

    def __init__(self, route: RouteSettings) -> None:
        self._key = RouteKey(route.api_key) if route.api_key else None
        self._route = route
        self._token = None if self._key else process_token()
        self._project: str | None = project_of(route)
        self.http = build_http_client(route.max_concurrency)
        """The HTTP client under the SDK client."""

    @cached_property
    def client(self) -> anthropic.AsyncAnthropicVertex:
        """The SDK client. NotReady without a region."""
        region = region_of(self._route)
        if not region:
            raise NotReady("no region: set region of the route")
        return without_environment(
            anthropic.AsyncAnthropicVertex(
                region=region,
                base_url=api_address(self._route),
                max_retries=0,
                timeout=TIMEOUT,
                http_client=self.http,
            )
        )

    async def ready(self) -> None:
        """Give the client the token of now, and the project."""
        client = self.client
        if self._key:
            client.access_token = self._key.current()
        elif self._token:
            client.access_token = await self._token.current()
            self._project = self._project or self._token.project
        if not self._project:
            raise NotReady("no project: set project of the route, or GOOGLE_CLOUD_PROJECT")
        client.project_id = self._project

    def post(self, body: Body, model: str, purpose: CallPurpose, *, stream: bool) -> Posted:
        """Return the request with its API version; the SDK puts the model into the path."""
        version = self._route.version_of(purpose.model)
        sent: dict[str, Any] = {**body, VERSION: version, "model": model, "stream": stream}
        if not stream:
            del sent["stream"]
        return Posted(sent, model, beta_header(sent, "vertex"))

    def identity(self) -> str | None:
        """Return the access token in use, and the project it is for."""
        return f"{self.client.project_id} {self.client.access_token}"

    def forget_credentials(self) -> None:
        """Look for another token next time."""
        if self._key:
            self._key.forget()
        if self._token:
            self._token.forget()

    def secrets(self) -> tuple[str, ...]:
        """Return the access token in use."""
        return tuple(filter(None, (self.client.access_token,)))
