"""Callers of the three providers, over the `anthropic` SDK."""

from trivet_tasks.config.route_settings import RouteSettings
from trivet_worker.adapters.protocol import Caller


def build_caller(route: RouteSettings) -> Caller:
    """Return the caller of a route; build it once per process. Clients and credentials are made at the first call.

    Nothing is raised here for a route without credentials: its calls come back as `unusable`.
    """
    from trivet_worker.adapters.caller import SdkCaller

    match route.provider:
        case "anthropic":
            from trivet_worker.adapters.first_party import FirstPartyWire

            return SdkCaller(FirstPartyWire(route), stream=route.stream)
        case "bedrock" if route.endpoint != "invoke":
            from trivet_worker.adapters.bedrock import AwsMessagesWire

            return SdkCaller(AwsMessagesWire(route), stream=route.stream)
        case "bedrock":
            from trivet_worker.adapters.bedrock import BedrockWire

            return SdkCaller(BedrockWire(route), stream=route.stream)
        case "vertex":
            from trivet_worker.adapters.vertex import VertexWire

            return SdkCaller(VertexWire(route), stream=route.stream)
