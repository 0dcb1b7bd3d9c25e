"""The Messages API on AWS: on bedrock-runtime, on bedrock-mantle, and Claude Platform on AWS.

All three take the body of the Anthropic API, name the version in a header and stream server-sent events. The SDK has no
client for the one on bedrock-runtime, but its client for bedrock-mantle sends the same request; only address and
signature differ, and both are ours.
"""

import anthropic
import httpx2

from trivet_tasks.config.addresses import api_address
from trivet_tasks.config.route_settings import RouteSettings
from trivet_worker.adapters.aws_access import SIGNED_BY_US, AwsAccess
from trivet_worker.adapters.connections import TIMEOUT, build_http_client, without_environment
from trivet_worker.adapters.protocol import CallPurpose
from trivet_worker.adapters.wire import Body, Posted, messages_request

Client = anthropic.AsyncAnthropicBedrockMantle | anthropic.AsyncAnthropicAWS


class AwsMessagesWire:
    """A route of provider `bedrock`, endpoint `messages`, `mantle` or `platform`."""

    def __init__(self, route: RouteSettings) -> None:
        self._route = route
        self._access = AwsAccess(route)
        self.provider: str = route.answers_as
        self._client: Client | None = None
        self._http: httpx2.AsyncClient | None = None

    @property
    def http(self) -> httpx2.AsyncClient:
        """The HTTP client under the SDK client. Built once. NotReady without a region."""
        if self._http is None:
            _ = self._access.region
            self._http = build_http_client(self._route.max_concurrency, self._access.signer())
        return self._http

    @property
    def client(self) -> Client:
        """The SDK client. Built once. NotReady without a region."""
        if self._client is None:
            self._client = self._made()
        return self._client

    def _made(self) -> Client:
        region = self._access.region
        address = api_address(self._route, region)
        if self._route.endpoint == "platform":
            return without_environment(
                anthropic.AsyncAnthropicAWS(
                    api_key=SIGNED_BY_US,  # `ready` puts the key here, where there is one
                    aws_region=region,
                    workspace_id=self._route.workspace_id,
                    base_url=address,
                    max_retries=0,
                    timeout=TIMEOUT,
                    http_client=self.http,
                )
            )
        return without_environment(
            anthropic.AsyncAnthropicBedrockMantle(
                api_key=SIGNED_BY_US,
                aws_region=region,
                base_url=address,
                max_retries=0,
                timeout=TIMEOUT,
                http_client=self.http,
            )
        )

    async def ready(self) -> None:
        """Give the client the key of now, or have credentials to sign with."""
        key = await self._access.key()
        self.client.api_key = key

    def post(self, body: Body, model: str, purpose: CallPurpose, *, stream: bool) -> Posted:
        """POST /v1/messages; the version of the API and the betas are headers."""
        return messages_request(
            body, model, self._route.version_of(purpose.model), self._route.answers_as, stream=stream
        )

    @property
    def signed(self) -> bool:
        """Return whether calls go out with our signature rather than a bearer key."""
        return self._access.signed

    def identity(self) -> str | None:
        """The bearer key in use, or what stands where it would."""
        return self.client.api_key

    def refused(self) -> None:
        """Look for other credentials next time."""
        self._access.refused()

    def secrets(self) -> tuple[str, ...]:
        """The bearer key, or the secret key and session token."""
        key = () if self.signed else (self.client.api_key or "",)
        return tuple(filter(None, (*key, *self._access.secrets())))
