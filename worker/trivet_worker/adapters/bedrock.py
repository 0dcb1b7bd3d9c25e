"""Amazon Web Services: InvokeModel, and the Messages API on bedrock-runtime, on bedrock-mantle and Claude Platform on AWS.

The wires of the Messages API take the body of the Anthropic API, name the version in a header and stream server-sent
events. The SDK has no client for the one on bedrock-runtime, but its client for bedrock-mantle sends the same request;
only address and signature differ, and both are ours.
"""

import hashlib
import os
from collections.abc import AsyncGenerator
from functools import cached_property
from typing import Any

import anthropic
import httpx2
import orjson

from trivet_tasks.config.addresses import api_address, region_of
from trivet_tasks.config.route_settings import RouteSettings
from trivet_worker.adapters.credentials import AwsCredentials, NotReady, RouteKey, process_credentials
from trivet_worker.adapters.http import TIMEOUT, build_http_client, without_environment
from trivet_worker.adapters.protocol import CallPurpose
from trivet_worker.adapters.wire import BETAS, VERSION, Body, Posted, messages_request, named_betas

Client = anthropic.AsyncAnthropicBedrock | anthropic.AsyncAnthropicBedrockMantle | anthropic.AsyncAnthropicAWS
METADATA_HEADER = "x-amzn-bedrock-request-metadata"
"""A JSON object of texts, which AWS writes into the account's model invocation log. At most 16 pairs, of letters, digits
and ``:_@$#=/+,-.`` (AWS, "Per-request metadata tagging"; the model of `Converse`); InvokeModel alone takes it as a header."""
_WITHOUT_METADATA = "us-gov-"
"""Prefix of regions without that header: AWS names the commercial ones only."""
_SIGNED_BY_US = "signed-by-trivet"
"""Given to the SDK as a bearer key, so that it does not sign: our signature takes the key's place on the request."""
_SERVICES = {
    "invoke": "bedrock",
    "messages": "bedrock",
    "mantle": "bedrock-mantle",
    "platform": "aws-external-anthropic",
}
"""Service name that a signature is made for, by endpoint."""


class SigV4(httpx2.Auth):
    """Signs each request of an HTTP client with the process's AWS credentials.

    The SDK signs too, but over every header and in a thread per call: 1.0 ms of CPU, where this takes 0.16 (measured).
    """

    requires_request_body = True

    def __init__(self, credentials: AwsCredentials, region: str, service: str) -> None:
        self._credentials = credentials
        self._region = region
        self._service = service

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        """Put the signature on the request. The credentials were made ready before."""
        request.headers.update(self.headers(str(request.url), request.content))
        yield request

    def headers(self, url: str, body: bytes) -> dict[str, str]:
        """Return the headers that carry the signature of a POST.

        Only what AWS needs is signed (host, date, token, body hash): a proxy may then touch the other headers.
        """
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest

        signed = AWSRequest(method="POST", url=url, headers={"X-Amz-Content-SHA256": hashlib.sha256(body).hexdigest()})
        SigV4Auth(self._credentials.frozen, self._service, self._region).add_auth(signed)
        return dict(signed.headers.items())


class _AwsWire:
    """A route of provider `bedrock`: with a bearer key, or signed with the credentials of the AWS chain."""

    provider: str = "bedrock"

    def __init__(self, route: RouteSettings) -> None:
        self._route = route
        self._key = RouteKey(route.api_key) if route.api_key else None
        self._region = region_of(route)
        self.pings = route.endpoint == "platform"
        variable = "ANTHROPIC_AWS_API_KEY" if route.endpoint == "platform" else "AWS_BEARER_TOKEN_BEDROCK"
        self._key_of_environment = None if self._key else os.environ.get(variable) or None
        bearer = self._key is not None or self._key_of_environment is not None
        self._credentials = None if bearer else process_credentials()

    @property
    def region(self) -> str:
        """The AWS region. NotReady without one."""
        if not self._region:
            raise NotReady("no region: set region of the route, or AWS_REGION")
        return self._region

    @cached_property
    def http(self) -> httpx2.AsyncClient:
        """The HTTP client under the SDK client. NotReady without a region."""
        region = self.region
        signer = SigV4(self._credentials, region, _SERVICES[self._route.endpoint]) if self._credentials else None
        return build_http_client(self._route.max_concurrency, signer)

    @cached_property
    def client(self) -> Client:
        """The SDK client. NotReady without a region."""
        client = self._made(
            api_key=_SIGNED_BY_US,  # `ready` puts the key here, where there is one
            aws_region=self.region,
            base_url=api_address(self._route),
            max_retries=0,
            timeout=TIMEOUT,
            http_client=self.http,
        )
        return without_environment(client)

    def _made(self, **options: Any) -> Client:
        raise NotImplementedError

    async def ready(self) -> None:
        """Give the client the key of now, or have credentials to sign with."""
        if self._credentials is None:
            self.client.api_key = self._key.current() if self._key else self._key_of_environment
            return
        await self._credentials.ready()
        self.client.api_key = _SIGNED_BY_US

    @property
    def signed(self) -> bool:
        """True if calls go out with our signature rather than a bearer key."""
        return self._credentials is not None

    def identity(self) -> str | None:
        """Return the bearer key in use, or its placeholder."""
        return self.client.api_key

    def forget_credentials(self) -> None:
        """Look for other credentials next time."""
        if self._key:
            self._key.forget()
        if self._credentials:
            self._credentials.forget()

    def secrets(self) -> tuple[str, ...]:
        """Return the bearer key, or the secret key and session token that calls are signed with."""
        if self._credentials is None:
            return tuple(filter(None, (self.client.api_key,)))
        frozen = self._credentials.frozen
        return tuple(filter(None, (frozen.secret_key, frozen.token))) if frozen else ()


class BedrockWire(_AwsWire):
    """A route of provider `bedrock`, endpoint `invoke`."""

    def _made(self, **options: Any) -> Client:
        return anthropic.AsyncAnthropicBedrock(**options)

    def post(self, body: Body, model: str, purpose: CallPurpose, *, stream: bool) -> Posted:
        """Return the request with its API version; the SDK puts model and streaming into the path."""
        version = self._route.version_of(purpose.model)
        sent: dict[str, Any] = {**body, VERSION: version, "model": model, "stream": stream}
        if BETAS in sent:
            sent[BETAS] = named_betas(sent[BETAS], "bedrock")
        return Posted(sent, model, of_call=self._metadata(purpose))

    def _metadata(self, purpose: CallPurpose) -> tuple[tuple[str, str], ...]:
        if not purpose.job_id or self.region.startswith(_WITHOUT_METADATA):
            return ()
        metadata = {"trivet_job": purpose.job_id}
        if purpose.batch_id is not None:
            metadata["trivet_batch"] = str(purpose.batch_id)
        return ((METADATA_HEADER, orjson.dumps(metadata).decode()),)


class AwsMessagesWire(_AwsWire):
    """A route of provider `bedrock`, endpoint `messages`, `mantle` or `platform`."""

    def __init__(self, route: RouteSettings) -> None:
        super().__init__(route)
        self.provider = route.answers_as

    def _made(self, **options: Any) -> Client:
        if self._route.endpoint == "platform":
            return anthropic.AsyncAnthropicAWS(workspace_id=self._route.workspace_id, **options)
        return anthropic.AsyncAnthropicBedrockMantle(**options)

    def post(self, body: Body, model: str, purpose: CallPurpose, *, stream: bool) -> Posted:
        """Return the request for POST /v1/messages; the version of the API and the betas are headers."""
        version, provider = self._route.version_of(purpose.model), self._route.answers_as
        return messages_request(body, model, version, provider, stream=stream)
