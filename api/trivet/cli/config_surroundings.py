"""What `config check` says of the surroundings: the database as it answers, proxies, certificates, ignored variables."""

import contextlib
import os

from trivet.cli import context
from trivet_tasks.config.environment import ignored
from trivet_tasks.config.environment_faults import proxy_of
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import StoreUnavailable
from trivet_tasks.urls import masked

_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE")


def database_state(settings: Settings) -> str:
    """Return what to say behind the database's URL. SQLite's file is left alone.

    Raises:
        StoreError: its encoding is not UTF8.
    """
    from trivet_store.database.engine import Store
    from trivet_store.migrations import schema_version

    if settings.store_url.startswith("sqlite"):
        return ""
    with contextlib.closing(Store.of(settings)) as store:
        try:
            schema_version.check_encoding(store)
            version = schema_version.version(store)
        except StoreUnavailable as error:
            return f" (does not answer now: {error.message.partition(': ')[2] or error.message})"
        pooled = ""
        if store.pooled:
            prepared = "statements are prepared" if settings.store.prepared_statements else "nothing is prepared"
            pooled = f", through a connection pooler: {prepared}"
    schema = f"schema {version}" if version else "no schema yet: run `trivet db upgrade`"
    return f" ({schema}{pooled})"


def print_surroundings() -> None:
    """Print the proxy and certificates in force, and the variables that are set and change nothing."""
    proxies = [found for scheme in ("https", "http") if (found := proxy_of(scheme))]
    for variable, value in dict.fromkeys(proxies):
        _print("proxy", f"{masked(value)} ({variable})")
    if proxies and (direct := os.environ.get("no_proxy") or os.environ.get("NO_PROXY")):
        _print("no proxy for", direct)
    for name in _CERTIFICATES:
        if path := os.environ.get(name):
            _print("certificates", f"{path} ({name})")
    if names := ignored():
        _print("ignored", f"{', '.join(names)} (docs/environment.md)")


def _print(name: str, value: str) -> None:
    context.out.print(f"{name:<14} {value}", markup=False, soft_wrap=True)
