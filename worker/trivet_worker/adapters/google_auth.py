"""Google's access token for this process, from application default credentials, renewed before it expires.

Left to themselves the SDK's clients fetch one each: 300 first calls made 300 token requests and took 18 s (measured).
"""

import asyncio
import logging
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from trivet_worker.adapters.single_flight import SingleFlight

logger = logging.getLogger("trivet.worker")

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
RENEW_BEFORE_S = 300.0
"""Seconds before the end at which renewal starts in the background, while calls still use the old token."""
USELESS_BEFORE_S = 30.0
"""With fewer seconds left a call waits for the new token."""


class GoogleToken:
    """An access token, kept fresh. One per process."""

    def __init__(self) -> None:
        """Take application default credentials, looked up at the first call."""
        self._credentials: Any = None
        self._project: str | None = None
        self._renewal = SingleFlight()

    async def current(self) -> str:
        """Return a token that is valid now. Raises an error of google-auth when there is none."""
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

        credentials = self._credentials
        if credentials is None:
            credentials, found = google.auth.default(scopes=[SCOPE])
            self._project = found
        try:
            credentials.refresh(google.auth.transport.requests.Request())
        except Exception as error:
            if self._left_s() < USELESS_BEFORE_S:
                raise
            logger.warning("Google's access token could not be renewed yet (%s); the old one still holds.", error)
            return
        self._credentials = credentials


@lru_cache(maxsize=1)
def process_token() -> GoogleToken:
    """The one Google token of this process."""
    return GoogleToken()
