"""Faults of this machine's environment, found at the start rather than by the first call: one sentence each."""

import importlib.util
import os
import ssl
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from trivet_tasks.config.secret_refs import MalformedSecret, fault_of
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import ConfigError

PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
"""Followed by every call; NO_PROXY names the hosts that are called directly."""
_CERTIFICATES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE")
_SOCKS = ("socks5", "socks5h")
_CHAINS = {
    "anthropic": ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"),
    "bedrock": ("AWS_BEARER_TOKEN_BEDROCK", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    "vertex": (),
}
"""Places where the providers' own chains look for a secret, for routes without `api_key`."""
_NEEDED = "→…é"


def refuse(settings: Settings, environment: Mapping[str, str] = os.environ) -> None:
    """Raise ConfigError when the environment has faults; each is a line of its own."""
    if faults := tuple(environment_faults(settings, environment)):
        raise ConfigError("\n".join(faults))


def environment_faults(settings: Settings, environment: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Return every fault, each a sentence that names the variable and says what to do."""
    for name in PROXIES:
        if fault := _proxy_fault(environment.get(name, "")):
            yield f"the variable {name} {fault}."
    for name in _CERTIFICATES:
        if fault := _certificates_fault(environment.get(name, "")):
            yield f"the variable {name} names {environment[name]}, {fault}: unset it, or name a file of CA certificates."
    for folder in filter(None, environment.get("SSL_CERT_DIR", "").split(os.pathsep)):
        if not Path(folder).is_dir():
            yield f"the variable SSL_CERT_DIR names {folder}, which is no folder: unset it, or name one of CA certificates."
    yield from _secret_faults(settings, environment)
    if (encoding := environment.get("PYTHONIOENCODING", "")) and not _writes_all(
        encoding.partition(":")[0] or sys.stdout.encoding
    ):
        yield f"the variable PYTHONIOENCODING={encoding} leaves no way to write other characters: unset it, or set utf-8."


def proxy_of(scheme: str, environment: Mapping[str, str] = os.environ) -> tuple[str, str] | None:
    """The variable and value of the proxy in force for `http` or `https`; None: calls go out directly."""
    for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper(), "all_proxy", "ALL_PROXY"):
        if value := environment.get(name, "").strip():
            return name, value if "://" in value else f"http://{value}"
    return None


def _proxy_fault(value: str) -> str:
    if not value.strip():
        return ""
    if value != value.strip():
        return "has spaces or line breaks around its value: take them out"
    scheme, separator, rest = value.partition("://")
    if not separator:
        scheme, rest = "http", value
    scheme = scheme.lower()
    if scheme in _SOCKS:
        return "" if importlib.util.find_spec("socksio") else (
            f"names a SOCKS proxy ({scheme}://), for which the package socksio is missing: "
            "pip install socksio, or name an HTTP proxy"
        )  # fmt: skip
    if scheme.startswith("socks"):
        return f"names a proxy of the kind {scheme}://, which is not known: write socks5:// or http://"
    if scheme not in ("http", "https"):
        return f"names a proxy of the kind {scheme}://, which is not known: write http:// or https://"
    return _address_fault(f"{scheme}://{rest}")


def _address_fault(url: str) -> str:
    try:
        parts = urlsplit(url)
        good = bool(parts.hostname) and (parts.port is None or parts.port > 0) and not any(map(str.isspace, url))
    except ValueError:
        good = False
    return "" if good else "is not the address of a proxy: write http://HOST:PORT"


def _certificates_fault(path: str) -> str:
    if not path:
        return ""
    if Path(path).is_dir():
        return "" if any(Path(path).iterdir()) else "which is empty"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        return "which holds no certificate"
    except OSError as error:
        return f"which cannot be read ({error.strerror})"
    return ""


def _secret_faults(settings: Settings, environment: Mapping[str, str]) -> Iterator[str]:
    chained: set[str] = set()
    for name, route in settings.routes.items():
        if route.api_key is None:
            chained.update(_CHAINS[route.provider])
            continue
        try:
            route.api_key.resolve()
        except MalformedSecret as error:
            yield f"{settings.source}: [routes.{name}] api_key: {error}"
        except ConfigError:
            pass  # not set here: said where it matters
    for variable in sorted(chained):
        if fault := fault_of(environment.get(variable, "")):
            yield f"the variable {variable} holds {fault}, and no key does: set it anew."


def _writes_all(encoding: str) -> bool:
    try:
        _NEEDED.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
