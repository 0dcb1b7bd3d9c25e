"""Address of a route's calls, made of provider, region and endpoint or the route's own `base_url`, and the way to it.

Clients are always given this address, so that no variable of the environment sends a prompt elsewhere.
"""

import os
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from trivet_tasks.config.environment_faults import proxy_of
from trivet_tasks.config.route_settings import RouteSettings

_PREFIXES = {("vertex", "invoke"): "/v1", ("bedrock", "messages"): "/anthropic", ("bedrock", "mantle"): "/anthropic"}
"""First part of the API's paths; a `base_url` that names no path gets it."""
_REGION_VARIABLES = {"bedrock": ("AWS_REGION", "AWS_DEFAULT_REGION"), "vertex": ("CLOUD_ML_REGION",), "anthropic": ()}
_PROJECT_VARIABLES = ("GOOGLE_CLOUD_PROJECT", "ANTHROPIC_VERTEX_PROJECT_ID")

DIRECTLY = "directly"


def region_of(route: RouteSettings) -> str:
    """Return the region of a route's calls: its own, else the environment's; empty where there is none."""
    return route.region or _first_set(_REGION_VARIABLES[route.provider])


def project_of(route: RouteSettings) -> str:
    """Return the Google project of a route, or of the environment; empty where the credentials decide."""
    return route.project or _first_set(_PROJECT_VARIABLES)


def _first_set(variables: Iterable[str]) -> str:
    return next(filter(None, map(os.environ.get, variables)), "")


def api_address(route: RouteSettings) -> str | None:
    """Return the address that the paths of the API are appended to. None: it depends on a region, and none is known."""
    if route.base_url:
        return _with_prefix(route)
    region = region_of(route)
    if route.provider == "anthropic":
        return "https://api.anthropic.com"
    if not region:
        return None
    return vertex_address(region) if route.provider == "vertex" else _aws(route, region)


def _aws(route: RouteSettings, region: str) -> str:
    match route.endpoint:
        case "invoke":
            return f"https://bedrock-runtime.{region}.amazonaws.com"
        case "messages":
            return f"https://bedrock-runtime.{region}.amazonaws.com/anthropic"
        case "mantle":
            return f"https://bedrock-mantle.{region}.api.aws/anthropic"
        case "platform":
            return f"https://aws-external-anthropic.{region}.api.aws"


def vertex_address(region: str) -> str:
    """Return the address of Vertex AI in a region, or at an endpoint over several: `global`, `us`, `eu`."""
    match region:
        case "global":
            return "https://aiplatform.googleapis.com/v1"
        case "us" | "eu":
            return f"https://aiplatform.{region}.rep.googleapis.com/v1"
        case _:
            return f"https://{region}-aiplatform.googleapis.com/v1"


def _with_prefix(route: RouteSettings) -> str:
    given = route.base_url.rstrip("/")
    prefix = _PREFIXES.get((route.provider, route.endpoint), "")
    return given if urlsplit(given).path else f"{given}{prefix}"


def effective_host(route: RouteSettings) -> str:
    """Return host and port of the address that a route's calls go to; "no region" where it has none."""
    address = api_address(route)
    if address is None:
        return "no region"
    return urlsplit(address).netloc.rpartition("@")[2] or address


def way_out(url: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return the way to a URL for a person: `directly`, or the proxy, without user and password, and its variable."""
    parts = urlsplit(url)
    named = proxy_of(parts.scheme, environment)
    without = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    if named is None or _is_exempt(parts.hostname or "", without):
        return DIRECTLY
    variable, proxy = named
    scheme, _, rest = proxy.partition("://")
    return f"through the proxy {scheme}://{rest.rpartition('@')[2]} ({variable})"


def _is_exempt(host: str, without: str) -> bool:
    """Return whether a list of hosts and domains by comma names this host."""
    names = (name.strip().lower().lstrip(".") for name in without.split(","))
    return any(name == "*" or host == name or host.endswith(f".{name}") for name in names if name)
