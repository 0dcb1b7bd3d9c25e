"""Callers of the three providers, over the `anthropic` SDK."""

from typing import TYPE_CHECKING

from trivet_tasks.config.route_settings import RouteSettings
from trivet_worker.adapters.protocol import Caller

if TYPE_CHECKING:
    from trivet_worker.adapters.wire import Wire


def build_caller(route: RouteSettings) -> Caller:
    """Return the caller of a route; build it once per process. Clients and credentials are made at the first call.

    Nothing is raised here for a route without credentials: its calls come back as `unusable`.
    """
    from trivet_worker.adapters.caller import SdkCaller

    return SdkCaller(build_wire(route), stream=route.stream)


def build_wire(route: RouteSettings) -> "Wire":
    """Return the wire of a route: its client, its credentials and the form of its requests."""
    match route.provider:
        case "anthropic":
            from trivet_worker.adapters.first_party import FirstPartyWire

            return FirstPartyWire(route)
        case "bedrock" if route.endpoint != "invoke":
            from trivet_worker.adapters.bedrock import AwsMessagesWire

            return AwsMessagesWire(route)
        case "bedrock":
            from trivet_worker.adapters.bedrock import BedrockWire

            return BedrockWire(route)
        case "vertex":
            from trivet_worker.adapters.vertex import VertexWire

            return VertexWire(route)
