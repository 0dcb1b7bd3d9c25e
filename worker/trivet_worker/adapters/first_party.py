"""The Anthropic API."""

import anthropic

from trivet_tasks.config.addresses import api_address
from trivet_tasks.config.route_settings import RouteSettings
from trivet_worker.adapters.credentials import NotReady, RouteKey
from trivet_worker.adapters.http import TIMEOUT, build_http_client, without_environment
from trivet_worker.adapters.protocol import CallPurpose
from trivet_worker.adapters.wire import Body, Posted, messages_request


class FirstPartyWire:
    """A route of provider `anthropic`."""

    provider = "anthropic"
    pings = True
    signed = False

    def __init__(self, route: RouteSettings) -> None:
        self._key = RouteKey(route.api_key) if route.api_key else None
        self._route = route
        self._client: anthropic.AsyncAnthropic | None = None
        self.http = build_http_client(route.max_concurrency)
        """The HTTP client under the SDK client."""

    @property
    def client(self) -> anthropic.AsyncAnthropic:
        """The SDK client. Built once."""
        if self._client is None:
            self._client = without_environment(
                anthropic.AsyncAnthropic(
                    # an empty key keeps the SDK from taking another account's out of the environment
                    api_key="" if self._key else None,
                    base_url=api_address(self._route),
                    max_retries=0,
                    timeout=TIMEOUT,
                    http_client=self.http,
                )
            )
        return self._client

    async def ready(self) -> None:
        """Give the client the key of now."""
        try:
            if self._key:
                self.client.api_key = self._key.current()
            elif not (self.client.api_key or self.client.auth_token or self.client.credentials):
                raise NotReady("no key: set api_key of the route, or ANTHROPIC_API_KEY")
        except anthropic.CredentialsError as error:
            raise NotReady(str(error)) from None

    def post(self, body: Body, model: str, purpose: CallPurpose, *, stream: bool) -> Posted:
        """Return the request for POST /v1/messages; the version of the API and the betas are headers."""
        return messages_request(body, model, self._route.version_of(purpose.model), "anthropic", stream=stream)

    def identity(self) -> str | None:
        """Return the key in use; None with credentials that the SDK exchanges for tokens itself."""
        return None if self.client.custom_auth is not None else self.client.api_key or self.client.auth_token

    def forget_credentials(self) -> None:
        """Read the key again next time."""
        if self._key:
            self._key.forget()
        if self._client is not None and self._client.custom_auth is not None:
            self._client = None  # with the token that the SDK keeps

    def secrets(self) -> tuple[str, ...]:
        """Return the key in use."""
        return tuple(filter(None, (self.client.api_key, self.client.auth_token)))
