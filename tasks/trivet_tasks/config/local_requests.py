"""Requests to a server on this machine that a page in somebody's browser must not make.

A browser runs pages of strangers. Such a page reaches a port on this machine by a name of its own that it lets resolve to
127.0.0.1 (DNS rebinding), which the header `Host` shows, or by posting to it from its own site, which `Origin` shows.
Programs send no `Origin` and the name they were given.
"""

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing; a link on another site may lead here."""
_HOST = re.compile(r"(?P<name>\[[^\[\]]*\]|[^:\[\]]*)(?::\d{1,5})?")
_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?")
_SHOWN_CHARS = 100


@dataclass(frozen=True, slots=True)
class RequestGuard:
    """The host names under which a server may be asked.

    Args:
        address: the address that the server listens on. On all addresses of a machine (`0.0.0.0`, `::`, empty) every IP
            address is a host of it: a page of a stranger cannot have one as its name and be reached under it, too.
        names: further host names, as of a reverse proxy before it.
    """

    address: str
    names: Collection[str] = ()

    def refusal(self, method: str, host: str | None, origin: str | None, site: str | None = None) -> str | None:
        """Return why a request is refused, or None where it is not.

        Args:
            host: the header `Host`; every browser sends it.
            origin: the header `Origin`.
            site: the header `Sec-Fetch-Site`.
        """
        if host is not None and not self._is_ours(host):
            return f"Host {_shown(host)} is not a name of this server"
        if origin is not None and not self._may_ask(origin, host):
            return f"Origin {_shown(origin)} is another site"
        if origin is None and site in ("cross-site", "same-site") and method not in SAFE_METHODS:
            return f"the request comes from another site (Sec-Fetch-Site: {site})"
        return None

    def _is_ours(self, host: str) -> bool:
        name = _name_of(host)
        if name is None:
            return False
        return is_loopback(name) or name == _plain(self.address) or self._is_configured(name) or self._is_any_ip(name)

    def _may_ask(self, origin: str, host: str | None) -> bool:
        """Return True if the page that asks is one of this server's, or of a configured name."""
        scheme, _, netloc = origin.partition("://")
        if scheme.lower() not in ("http", "https"):  # `null`: a file, a sandbox, a redirect
            return False
        if host is not None and netloc.lower() == host.lower():
            return True
        name = _name_of(netloc)
        return name is not None and self._is_configured(name)

    def _is_configured(self, name: str) -> bool:
        return any(name == _plain(known) for known in self.names)

    def _is_any_ip(self, name: str) -> bool:
        return _is_unspecified(self.address) and _ip(name) is not None


def is_loopback(address: str) -> bool:
    """Return whether only this machine reaches a server on this address or name.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0"), is_loopback("")
    (True, True, False, False)
    """
    name = _plain(address)
    if name == "localhost" or name.endswith(".localhost"):
        return True
    found = _ip(name)
    return found is not None and found.is_loopback


def host_name(text: str) -> str:
    """Return a host name or IP address as a configuration gives it, checked. ValueError: it is none."""
    name = _plain(text)
    if _ip(name) is None and not _NAME.fullmatch(name):
        raise ValueError(f"{text!r} is not a host name; give the name alone, without http:// and without a port")
    return name


def _name_of(host: str) -> str | None:
    """The name in `NAME`, `NAME:PORT` or `[ADDRESS]:PORT`; None where it is something else."""
    found = _HOST.fullmatch(host)
    name = _plain(found["name"]) if found else ""
    return name or None


def _plain(name: str) -> str:
    return name.strip().lower().removesuffix(".").removeprefix("[").removesuffix("]")


def _ip(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _is_unspecified(address: str) -> bool:
    found = _ip(_plain(address))
    return not address or (found is not None and found.is_unspecified)


def _shown(header: str) -> str:
    """A header as an answer may repeat it."""
    return repr(header[:_SHOWN_CHARS])
