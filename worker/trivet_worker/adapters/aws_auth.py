"""AWS credentials of this process, and the signature (SigV4) of a call.

The SDK signs too, but over every header and in a thread per call: 1.0 ms of CPU, where this takes 0.16 (measured).
The credentials come from boto3's chain. botocore renews those that expire; it may then block for seconds, so it
is asked in a thread, by one caller for all, and in between calls sign with what it gave last.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator
from functools import lru_cache
from typing import Any

import httpx2

from trivet_worker.adapters.single_flight import SingleFlight

ASK_EVERY_S = 60.0
"""Seconds between two looks at the chain. botocore renews from 15 minutes before the end, so this misses nothing."""


class NoAwsCredentials(Exception):
    """The chain has no credentials."""


class AwsCredentials:
    """The credentials of boto3's chain, kept fresh. One per process."""

    def __init__(self) -> None:
        self._session: Any = None
        self._frozen: Any = None
        self._ask_after = 0.0
        self._renewal = SingleFlight()

    async def ready(self) -> None:
        """Make `frozen` hold good credentials. Raises NoAwsCredentials, or an error of botocore, when it cannot."""
        if self._frozen is None or time.monotonic() >= self._ask_after:
            await self._renewal.run(lambda: asyncio.to_thread(self._ask))

    @property
    def frozen(self) -> Any:
        """Access key, secret key and token, as botocore's ReadOnlyCredentials. None before the first `ready`."""
        return self._frozen

    def forget(self) -> None:
        """Build the chain anew before the next call: AWS refused these."""
        self._frozen = self._session = None

    def _ask(self) -> None:
        import boto3  # 140 ms, only where a route is signed

        session = self._session or boto3.Session()
        credentials = session.get_credentials()
        if credentials is None:
            raise NoAwsCredentials
        self._frozen = credentials.get_frozen_credentials()
        self._session = session
        self._ask_after = time.monotonic() + ASK_EVERY_S


class SigV4(httpx2.Auth):
    """Signs each request of an HTTP client with the process's AWS credentials."""

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
        """The headers that carry the signature of a POST.

        Only what AWS needs is signed (host, date, token, body hash): a proxy may then touch the other headers.
        """
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest

        signed = AWSRequest(method="POST", url=url, headers={"X-Amz-Content-SHA256": hashlib.sha256(body).hexdigest()})
        SigV4Auth(self._credentials.frozen, self._service, self._region).add_auth(signed)
        return dict(signed.headers.items())


@lru_cache(maxsize=1)
def process_credentials() -> AwsCredentials:
    """The one set of AWS credentials of this process."""
    return AwsCredentials()
