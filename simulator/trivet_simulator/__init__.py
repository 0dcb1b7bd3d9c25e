"""The wires of Anthropic, Amazon Bedrock and Google Vertex AI on loopback, with faults on demand.

`python -m trivet_simulator` serves them; `SimulatorProcess` runs that as a child; `Control` steers it.
"""

from trivet_simulator.calls import Call
from trivet_simulator.checks import ControlError
from trivet_simulator.client import Control
from trivet_simulator.latency import Latency
from trivet_simulator.options import Endpoints, ProviderOptions, SimulatorOptions
from trivet_simulator.ports import PortTakenError
from trivet_simulator.process import SimulatorProcess
from trivet_simulator.server import serve

__all__ = [
    "Call",
    "Control",
    "ControlError",
    "Endpoints",
    "Latency",
    "PortTakenError",
    "ProviderOptions",
    "SimulatorOptions",
    "SimulatorProcess",
    "serve",
]
