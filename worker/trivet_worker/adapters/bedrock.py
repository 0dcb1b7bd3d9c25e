"""Amazon Bedrock, InvokeModel."""

import os
from typing import Any

import anthropic
import botocore.exceptions
import httpx2

from trivet_tasks.errors import ConfigError
from trivet_tasks.route_settings import RouteSettings
from trivet_worker.adapters.connections import TIMEOUT, build_http_client
from trivet_worker.adapters.keys import RouteKey
from trivet_worker.adapters.stencil import VERSION
from trivet_worker.adapters.wire import Body, NotReady, Posted
from trivet_worker.aws_auth import NoAwsCredentials, SigV4, process_credentials
from trivet_worker.calls import CallPurpose

_SIGNED_BY_US = "signed-by-trivet"
"""Stands where the SDK wants a bearer key, so that it does not sign: our signature takes its place on the request."""

_UNREACHABLE = (
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.MetadataRetrievalError,
)


class BedrockWire:
    """A route of provider `bedrock`: with a bearer key, or signed with the credentials of the AWS chain."""

    provider = "bedrock"

    def __init__(self, route: RouteSettings) -> None:
        self._key = RouteKey(route.api_key) if route.api_key else None
        self._route = route
        self._region = route.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        bearer = self._key is not None or bool(os.environ.get("AWS_BEARER_TOKEN_BEDROCK"))
        self._credentials = None if bearer else process_credentials()
        self._client: anthropic.AsyncAnthropicBedrock | None = None
        self._http: httpx2.AsyncClient | None = None

    @property
    def http(self) -> httpx2.AsyncClient:
        """The HTTP client under the SDK client. Built once. NotReady without a region."""
        if self._http is None:
            if not self._region:
                raise NotReady("no region: set region of the route, or AWS_REGION")
            signer = SigV4(self._credentials, self._region) if self._credentials else None
            self._http = build_http_client(self._route.max_concurrency, signer)
        return self._http

    @property
    def client(self) -> anthropic.AsyncAnthropicBedrock:
        """The SDK client. Built once. NotReady without a region."""
        if self._client is None:
            http = self.http
            self._client = anthropic.AsyncAnthropicBedrock(
                api_key=_SIGNED_BY_US if self.signed else None,
                aws_region=self._region,
                base_url=self._route.base_url or None,
                max_retries=0,
                timeout=TIMEOUT,
                http_client=http,
            )
        return self._client

    async def ready(self) -> None:
        """Give the client the key of now, or have credentials to sign with."""
        if self._credentials is None:
            try:
                if self._key:
                    self.client.api_key = self._key.current()
            except ConfigError as error:
                raise NotReady(str(error)) from None
            return
        try:
            await self._credentials.ready()
        except NoAwsCredentials:
            raise NotReady(
                "no AWS credentials: set api_key of the route, or give the worker credentials of the AWS chain"
            ) from None
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            raise NotReady(f"no AWS credentials: {error}", transient=isinstance(error, _UNREACHABLE)) from None

    def post(self, body: Body, model: str, purpose: CallPurpose, *, stream: bool) -> Posted:
        """The request with its API version; the SDK puts model and streaming into the path."""
        version = self._route.version_of(purpose.model)
        sent: dict[str, Any] = {**body, VERSION: version, "model": model, "stream": stream}
        return Posted(sent, model)

    @property
    def signed(self) -> bool:
        """Whether calls go out with our signature rather than a bearer key."""
        return self._credentials is not None

    def identity(self) -> str | None:
        """The bearer key in use, or what stands where it would."""
        return self.client.api_key

    def refused(self) -> None:
        """Look for other credentials next time."""
        if self._key:
            self._key.forget()
        if self._credentials:
            self._credentials.forget()

    def secrets(self) -> tuple[str, ...]:
        """The bearer key, or the secret key and session token."""
        frozen = self._credentials.frozen if self._credentials else None
        signing = (frozen.secret_key, frozen.token) if frozen else ()
        return tuple(filter(None, (self.client.api_key, *signing)))
