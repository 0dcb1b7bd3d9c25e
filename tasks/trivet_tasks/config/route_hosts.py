"""The host that a route's calls go to, for a person."""

import os
from urllib.parse import urlsplit

from trivet_tasks.config.addresses import api_address
from trivet_tasks.config.route_settings import RouteSettings

_REGION_VARIABLES = {"bedrock": ("AWS_REGION", "AWS_DEFAULT_REGION"), "vertex": ("CLOUD_ML_REGION",), "anthropic": ()}


def effective_host(route: RouteSettings) -> str:
    """Return host and port of the address that a route's calls go to; "no region" where it has none."""
    named = (os.environ.get(name) for name in _REGION_VARIABLES[route.provider])
    address = api_address(route, next(filter(None, named), None))
    if address is None:
        return "no region"
    return urlsplit(address).netloc.rpartition("@")[2] or address
