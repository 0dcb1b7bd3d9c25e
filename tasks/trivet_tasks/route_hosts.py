"""The host that a route's calls go to, for a person."""

import os
from urllib.parse import urlsplit

from trivet_tasks.route_settings import RouteSettings


def effective_host(route: RouteSettings) -> str:
    """Return host and port of a route's base URL, or of the one that provider and region make; "no region" without one."""
    if route.base_url:
        return urlsplit(route.base_url).netloc.rpartition("@")[2] or route.base_url
    match route.provider:
        case "anthropic":
            return "api.anthropic.com"
        case "bedrock":
            region = route.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
            return f"bedrock-runtime.{region}.amazonaws.com" if region else "no region"
        case "vertex":
            return _vertex(route.region or os.environ.get("CLOUD_ML_REGION"))


def _vertex(region: str | None) -> str:
    match region:
        case None | "":
            return "no region"
        case "global":
            return "aiplatform.googleapis.com"
        case "us" | "eu":
            return f"aiplatform.{region}.rep.googleapis.com"
        case _:
            return f"{region}-aiplatform.googleapis.com"
