"""Keys and credentials of this process, kept fresh: a route's own key, and the chains of AWS and Google.

Left to themselves the SDK's clients fetch a Google token each: 300 first calls made 300 token requests and took 18 s
(measured). botocore renews credentials that expire and may then block for seconds, so it is asked in a thread, by one
caller for all; in between, calls sign with what it gave last.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from trivet_tasks.config.secret_refs import SecretRef
from trivet_tasks.errors import ConfigError

logger = logging.getLogger("trivet.worker")

ASK_AWS_EVERY_S = 60.0
"""Seconds between two looks at the chain. botocore renews from 15 minutes before the end, so this misses nothing."""
GOOGLE_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
RENEW_BEFORE_S = 300.0
"""Seconds before a token's end at which renewal starts in the background, while calls still use the old one."""
USELESS_BEFORE_S = 30.0
"""Seconds before a token's end from which calls wait for the new one."""


class NotReady(Exception):
    """No call can be made: no key, no credentials, no region, no project. Its text is for a person.

    `transient` is True where the place the credentials come from could not be asked just now.
    """

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


class RouteKey:
    """The secret behind a reference. A file is read again when it changed, so no restart is needed."""

    def __init__(self, reference: SecretRef) -> None:
        self._reference = reference
        self._stamp: tuple[int, int, int] | None = None
        self._value = ""

    def current(self) -> str:
        """Return the key of now. NotReady when there is none. A look at the file costs one stat."""
        stamp = self._stamp_now()
        if stamp is None or stamp != self._stamp:
            try:
                self._value = self._reference.resolve()
            except ConfigError as error:
                raise NotReady(str(error)) from None
            self._stamp = stamp
        return self._value

    def forget(self) -> None:
        """Read the key again at the next call, changed or not: the provider refused it."""
        self._stamp = None

    def _stamp_now(self) -> tuple[int, int, int] | None:
        if self._reference.scheme != "file":
            return None
        try:
            state = os.stat(self._reference.target)  # noqa: PTH116  a Path costs more than the look itself
        except OSError as error:
            raise NotReady(f"the file {self._reference.target} cannot be read: {error.strerror}.") from None
        return state.st_mtime_ns, state.st_size, state.st_ino


class SingleFlight:
    """Runs a coroutine once for all callers that ask while it runs. A caller that is cancelled does not cancel it."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> "asyncio.Task[None]":
        """Start the work, or join it where it runs already (in this event loop)."""
        task = self._task
        if task is None or task.done() or task.get_loop() is not asyncio.get_running_loop():
            task = self._task = asyncio.ensure_future(work())
            task.add_done_callback(_note_failure)
        return task

    async def run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start or join the work and wait for its end. Its exception is raised in all that wait."""
        await asyncio.shield(self.start(work))


def _note_failure(task: "asyncio.Task[None]") -> None:
    """Mark the exception as seen: all that wait get it; with nobody waiting the next call meets it again."""
    if not task.cancelled():
        task.exception()


class AwsCredentials:
    """The credentials of boto3's chain, kept fresh. One per process."""

    def __init__(self) -> None:
        self._session: Any = None
        self._frozen: Any = None
        self._ask_after = 0.0
        self._renewal = SingleFlight()

    async def ready(self) -> None:
        """Make `frozen` hold good credentials. NotReady when there are none."""
        if self._frozen is None or time.monotonic() >= self._ask_after:
            await self._renewal.run(lambda: asyncio.to_thread(self._ask))

    @property
    def frozen(self) -> Any:
        """Access key, secret key and token, as botocore's ReadOnlyCredentials. None before the first `ready`."""
        return self._frozen

    def forget(self) -> None:
        """Build the chain anew before the next call: AWS refused these.

        They stay until then: calls under way sign with them, and need them to strike them out of an error's words.
        """
        self._session = None
        self._ask_after = 0.0

    def _ask(self) -> None:
        import boto3  # 140 ms, only where a route is signed
        import botocore.exceptions as errors

        try:
            session = self._session or boto3.Session()
            credentials = session.get_credentials()
            frozen = credentials and credentials.get_frozen_credentials()
        except (errors.BotoCoreError, errors.ClientError) as error:
            unreachable = (errors.ConnectionError, errors.HTTPClientError, errors.MetadataRetrievalError)
            raise NotReady(f"no AWS credentials: {error}", transient=isinstance(error, unreachable)) from None
        if frozen is None:
            raise NotReady(
                "no AWS credentials: set api_key of the route, or give the worker credentials of the AWS chain"
            )
        self._frozen = frozen
        self._session = session
        self._ask_after = time.monotonic() + ASK_AWS_EVERY_S


@lru_cache(maxsize=1)
def process_credentials() -> AwsCredentials:
    """Return the one set of AWS credentials of this process."""
    return AwsCredentials()


class GoogleToken:
    """An access token, kept fresh. One per process."""

    def __init__(self) -> None:
        """Application default credentials are looked up at the first call."""
        self._credentials: Any = None
        self._project: str | None = None
        self._renewal = SingleFlight()

    async def current(self) -> str:
        """Return a token that is valid now. NotReady when there is none."""
        left = self._left_s()
        if left < USELESS_BEFORE_S:
            await self._renewal.run(self._renew)
        elif left < RENEW_BEFORE_S:
            self._renewal.start(self._renew)
        return str(self._credentials.token)

    @property
    def project(self) -> str | None:
        """The project the credentials belong to; None when they name none, and before the first `current`."""
        return self._project

    def forget(self) -> None:
        """Get another token before the next call: Google refused this one."""
        if self._credentials is not None:
            self._credentials.token = None

    def _left_s(self) -> float:
        if self._credentials is None or not self._credentials.token:
            return 0.0
        expiry = self._credentials.expiry  # naive UTC; None: does not expire
        if expiry is None:
            return float("inf")
        return float((expiry.replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds())

    async def _renew(self) -> None:
        await asyncio.to_thread(self._renew_blocking)

    def _renew_blocking(self) -> None:
        import google.auth  # 100 ms, only where a route needs it
        import google.auth.transport.requests
        from google.auth.exceptions import GoogleAuthError, TransportError

        try:
            credentials = self._credentials
            if credentials is None:
                credentials, self._project = google.auth.default(scopes=[GOOGLE_SCOPE])
            credentials.refresh(google.auth.transport.requests.Request())
        except Exception as error:
            if self._left_s() >= USELESS_BEFORE_S:
                logger.warning("Google's access token could not be renewed yet (%s); the old one still holds.", error)
                return
            if not isinstance(error, GoogleAuthError):
                raise
            transient = error.retryable or isinstance(error, TransportError)
            raise NotReady(f"no Google credentials: {error}", transient=transient) from None
        self._credentials = credentials


@lru_cache(maxsize=1)
def process_token() -> GoogleToken:
    """Return the one Google token of this process."""
    return GoogleToken()
