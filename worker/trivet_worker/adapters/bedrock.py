"""Amazon Bedrock, InvokeModel."""

from typing import Any

import anthropic
import httpx2
import orjson

from trivet_tasks.config.addresses import api_address
from trivet_tasks.config.route_settings import RouteSettings
from trivet_worker.adapters.aws_access import SIGNED_BY_US, AwsAccess
from trivet_worker.adapters.connections import TIMEOUT, build_http_client, without_environment
from trivet_worker.adapters.protocol import CallPurpose
from trivet_worker.adapters.wire import BETAS, VERSION, Body, Posted, named_betas

METADATA_HEADER = "x-amzn-bedrock-request-metadata"
"""A JSON object of texts, which AWS writes into the account's model invocation log. At most 16 pairs, of letters, digits
and ``:_@$#=/+,-.`` (AWS, "Per-request metadata tagging"; the model of `Converse`); InvokeModel alone takes it as a header."""
_WITHOUT_METADATA = "us-gov-"
"""AWS names the commercial regions only."""


class BedrockWire:
    """A route of provider `bedrock`, endpoint `invoke`."""

    provider = "bedrock"

    def __init__(self, route: RouteSettings) -> None:
        self._route = route
        self._access = AwsAccess(route)
        self._client: anthropic.AsyncAnthropicBedrock | None = None
        self._http: httpx2.AsyncClient | None = None

    @property
    def http(self) -> httpx2.AsyncClient:
        """The HTTP client under the SDK client. Built once. NotReady without a region."""
        if self._http is None:
            _ = self._access.region
            self._http = build_http_client(self._route.max_concurrency, self._access.signer())
        return self._http

    @property
    def client(self) -> anthropic.AsyncAnthropicBedrock:
        """The SDK client. Built once. NotReady without a region."""
        if self._client is None:
            region = self._access.region
            self._client = without_environment(
                anthropic.AsyncAnthropicBedrock(
                    api_key=SIGNED_BY_US,  # `ready` puts the key here, where there is one
                    aws_region=region,
                    base_url=api_address(self._route, region),
                    max_retries=0,
                    timeout=TIMEOUT,
                    http_client=self.http,
                )
            )
        return self._client

    async def ready(self) -> None:
        """Give the client the key of now, or have credentials to sign with."""
        key = await self._access.key()
        self.client.api_key = key

    def post(self, body: Body, model: str, purpose: CallPurpose, *, stream: bool) -> Posted:
        """The request with its API version; the SDK puts model and streaming into the path."""
        version = self._route.version_of(purpose.model)
        sent: dict[str, Any] = {**body, VERSION: version, "model": model, "stream": stream}
        if BETAS in sent:
            sent[BETAS] = named_betas(sent[BETAS], "bedrock")
        return Posted(sent, model, of_call=self._metadata(purpose))

    def _metadata(self, purpose: CallPurpose) -> tuple[tuple[str, str], ...]:
        if not purpose.job_id or self._access.region.startswith(_WITHOUT_METADATA):
            return ()
        told = {"trivet_job": purpose.job_id}
        if purpose.batch_id is not None:
            told["trivet_batch"] = str(purpose.batch_id)
        return ((METADATA_HEADER, orjson.dumps(told).decode()),)

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
