"""Address of a route's calls: made of provider, region and endpoint, or the route's own `base_url`.

Clients are always given this address, so that no variable of the environment sends a prompt elsewhere.
"""

from urllib.parse import urlsplit

from trivet_tasks.config.route_settings import RouteSettings

_PREFIXES = {("vertex", "invoke"): "/v1", ("bedrock", "messages"): "/anthropic", ("bedrock", "mantle"): "/anthropic"}
"""First part of the API's paths; a `base_url` that names no path gets it."""


def api_address(route: RouteSettings, region: str | None) -> str | None:
    """Return the address that the paths of the API are appended to. None: it depends on a region, and none is known.

    Args:
        region: where the route has none of its own, what its environment says.
    """
    if route.base_url:
        return _with_prefix(route)
    region = route.region or region
    if route.provider == "anthropic":
        return "https://api.anthropic.com"
    if not region:
        return None
    return _vertex(region) if route.provider == "vertex" else _aws(route, region)


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


def _vertex(region: str) -> str:
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
