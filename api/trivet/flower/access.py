"""Access to Flower: which requests are answered at all, before any page of it is asked."""

import base64
import binascii
import hmac
from collections.abc import Collection
from typing import Any

from tornado.httputil import HTTPServerRequest
from tornado.web import RequestHandler

from trivet.flower.options import Listen
from trivet_tasks.config.local_requests import RequestGuard, is_loopback
from trivet_tasks.errors import ConfigError

HEALTHCHECK = "/healthcheck"
"""Answers `OK` and nothing more, so it asks nobody for anything: an orchestrator's check has no password and its own `Host`."""
_HINT = "Add the name that browsers use to [flower] hosts in the configuration."


class Access:
    """Decides about requests by their headers: the host asked for, the page that asks, and the password.

    Flower asks for the password page by page, and not on every page. Here it is asked for on all of them.
    """

    def __init__(self, listen: Listen, prefix: str | None) -> None:
        """Take the address of Flower, its passwords, and the prefix of its paths."""
        self._guard = RequestGuard(listen.address, listen.hosts)
        self._pairs = tuple(pair.encode() for pair in listen.basic_auth)
        prefix = (prefix or "").strip("/")
        self._open = f"/{prefix}{HEALTHCHECK}" if prefix else HEALTHCHECK

    def refusal(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        """Return the arguments of `RefusedRequest`; None if the request may go on."""
        if request.path == self._open:
            return None
        headers = request.headers
        reason = self._guard.refusal(
            request.method or "", headers.get("Host"), headers.get("Origin"), headers.get("Sec-Fetch-Site")
        )
        if reason is not None:
            return {"status": 403, "reason": f"Refused: {reason}. {_HINT}"}
        if self._pairs and not _is_known(headers.get("Authorization", ""), self._pairs):
            return {"status": 401, "reason": "Access denied"}
        return None


class RefusedRequest(RequestHandler):  # type: ignore[misc]  # Tornado is not checked
    """The answer to a request that is refused, whatever its method."""

    def initialize(self, status: int, reason: str) -> None:
        """Take the status and one sentence for a person."""
        self._refused_with, self._said = status, reason

    def check_xsrf_cookie(self) -> None:
        """Do nothing: there is nothing to protect."""

    def prepare(self) -> None:
        """Answer."""
        self.set_status(self._refused_with)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.set_header("X-Content-Type-Options", "nosniff")
        if self._refused_with == 401:
            self.set_header("WWW-Authenticate", 'Basic realm="flower"')
        self.finish(self._said)


def check_open(listen: Listen, *, protected: bool) -> None:
    """Refuse to serve others than this machine without a password.

    Args:
        protected: something else than a password asks who somebody is, or nobody reaches it over the network.

    Raises:
        ConfigError: anybody who reaches the address would see everything.
    """
    if listen.basic_auth or protected or listen.insecure or is_loopback(listen.address):
        return
    where = listen.address or "all addresses of this machine"
    raise ConfigError(
        f"--address: Flower on {where} would show everything to anybody who reaches it.",
        hint="Set FLOWER_BASIC_AUTH=USER:PASSWORD, or say --insecure if the network lets nobody else through.",
    )


def _is_known(header: str, pairs: Collection[bytes]) -> bool:
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return False
    try:
        given = base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        return False
    return any(hmac.compare_digest(given, pair) for pair in pairs)
