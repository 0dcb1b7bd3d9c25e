"""Variables that the environment may set: `TRIVET_*`, proxies, certificates and credentials, and nothing else.

The libraries under Trivet follow some 200 variables of their own. Those that would send prompts, keys or messages elsewhere,
run foreign code, or write prompts to a log are set aside when a process of Trivet starts, before any of these libraries
is imported: renamed, so that no library finds them, and `trivet config check` can name them. A route with
`environment = true` follows its SDK's variable for the base URL (`sdk_base_url`).

In a process that only uses `trivet.Client` nothing is renamed: it is not ours. There the client passes explicitly what
these variables would change (`trivet_tasks.celery_app`, `trivet_tasks.config.database_url`).
"""

import logging
import os
from collections.abc import Mapping, MutableMapping
from fnmatch import fnmatchcase
from typing import NamedTuple

ASIDE = "TRIVET_SET_ASIDE_"
"""Prefix of the name of a variable that was set aside."""


class Rule(NamedTuple):
    """Variables that are set aside: glob patterns of names, those among them that are kept, and the reason."""

    patterns: tuple[str, ...]
    kept: tuple[str, ...]
    why: str


RULES = (
    Rule(
        ("ANTHROPIC_*",),
        (
            "ANTHROPIC_API_KEY",
            "ANTHROPIC_AUTH_TOKEN",
            "ANTHROPIC_PROFILE",
            "ANTHROPIC_CONFIG_DIR",
            "ANTHROPIC_IDENTITY_TOKEN",
            "ANTHROPIC_IDENTITY_TOKEN_FILE",
            "ANTHROPIC_FEDERATION_RULE_ID",
            "ANTHROPIC_ORGANIZATION_ID",
            "ANTHROPIC_SERVICE_ACCOUNT_ID",
            "ANTHROPIC_WORKSPACE_ID",
            "ANTHROPIC_SCOPE",
            "ANTHROPIC_VERTEX_PROJECT_ID",
        ),
        "a route's URL and headers are built from its settings; the SDK's log holds prompts",
    ),
    Rule(
        (
            "AWS_ENDPOINT_URL*",
            "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
            "AWS_DATA_PATH",
            "AWS_CSM_*",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT*",
            "BOTOCORE_*",
            "BOTO_*",
        ),
        (),
        "a route's URL is built from its region",
    ),
    Rule(
        (
            "GCE_METADATA_HOST",
            "GCE_METADATA_ROOT",
            "GCE_METADATA_IP",
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_*",
            "GOOGLE_API_USE_MTLS_ENDPOINT",
            "GOOGLE_CLOUD_UNIVERSE_DOMAIN",
            "GOOGLE_SDK_PYTHON_LOGGING_SCOPE",
        ),
        (),
        "a route's URL is built from its region",
    ),
    Rule(
        (
            "CELERY_*",
            "KOMBU_*",
            "C_STRICT_APP",
            "C_WARN_APP",
            "C_IMPDEBUG",
            "C_REMDEBUG",
            "C_WNOCONF",
            "C_BENCH*",
            "MP_LOG",
            "MP_MAIN_FILE",
            "FORKED_BY_MULTIPROCESSING",
            "PICKLE_PROTOCOL",
            "AUTOSCALE_KEEPALIVE",
            "DJANGO_SETTINGS_MODULE",
            "EVENTLET_NOBLOCK",
            "TIMER_DEBUG",
            "REMAP_SIGTERM",
        ),
        (),
        "[broker] url and Trivet's own settings say where messages go",
    ),
    Rule(
        ("FLOWER_BROKER_API", "FLOWER_CONF", "FLOWER_DB", "FLOWER_DEBUG", "FLOWER_FORMAT_TASK", "FLOWER_PERSISTENT"),
        (),
        "Flower follows Trivet's settings; its other variables shape its own page",
    ),
    Rule(
        ("PG*",),
        ("PGUSER", "PGPASSWORD", "PGPASSFILE"),
        "[store] url says where the database is and how it is reached",
    ),
    Rule(
        ("SSLKEYLOGFILE", "NETRC"),
        (),
        "it lets others read the connections, or adds credentials to them",
    ),
)
"""In the order in which they are shown."""

_SDK_BASE_URL = {
    "anthropic": "ANTHROPIC_BASE_URL",
    "bedrock": "ANTHROPIC_BEDROCK_BASE_URL",
    "vertex": "ANTHROPIC_VERTEX_BASE_URL",
}

LOUD = ("anthropic", "botocore", "boto3", "urllib3", "requests", "httpx2", "httpcore2", "aiohttp", "google")
"""Loggers whose lower levels hold addresses, headers or prompts."""

_PROVIDER_SECRETS = (
    "ANTHROPIC_*", "AWS_*", "GOOGLE_*", "CLOUDSDK_*", "GCLOUD_*", "CLOUD_ML_*", "GCE_*", f"{ASIDE}*",
)  # fmt: skip


def set_aside(environment: MutableMapping[str, str] = os.environ) -> None:
    """Rename every variable that must have no effect. Each process of Trivet calls this first."""
    for name in [name for name in environment if rule_of(name)]:
        environment[ASIDE + name] = environment.pop(name)


def quieten() -> None:
    """Cap the libraries' loggers at WARNING, whatever level was asked for."""
    for name in LOUD:
        logging.getLogger(name).setLevel(logging.WARNING)


def rule_of(name: str) -> Rule | None:
    """Return the rule by which a variable is set aside; None: it is not."""
    for rule in RULES:
        if name not in rule.kept and any(fnmatchcase(name, pattern) for pattern in rule.patterns):
            return rule
    return None


def ignored(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return the names of the variables that are set but have no effect here."""
    names = {name.removeprefix(ASIDE) for name in environment if name.startswith(ASIDE) or rule_of(name)}
    return tuple(sorted(names))


def sdk_base_url(provider: str) -> str:
    """The base URL that the SDK's variable gives a provider, for a route with `environment = true`; empty: none.

    The variable may have been set aside.
    """
    name = _SDK_BASE_URL[provider]
    return (os.environ.get(name) or os.environ.get(ASIDE + name) or "").strip()


def without_secrets(environment: Mapping[str, str], named: frozenset[str]) -> dict[str, str]:
    """The environment of a process that makes no calls: without the providers' variables, and without those named.

    Args:
        named: variables from which routes take their keys.
    """
    return {
        name: value
        for name, value in environment.items()
        if name not in named and not any(fnmatchcase(name, pattern) for pattern in _PROVIDER_SECRETS)
    }
