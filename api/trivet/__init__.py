"""Trivet: a durable queue for Claude jobs over Amazon Bedrock, Google Vertex AI and the Anthropic API.

from trivet import Client

with Client() as client:
    job = client.submit("Summarise: …", model="claude-sonnet-5-5", max_tokens=300, latency="interactive")
    print(job.result(timeout=5).text)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trivet.client.async_client import AsyncBatch, AsyncClient, AsyncJob
    from trivet.client.client import Client
    from trivet.client.jobs import Batch, Job
    from trivet.client.result import Attempt, JobError, Result
    from trivet_store.jobs.batches import Progress
    from trivet_tasks.callbacks import Callback
    from trivet_tasks.config.settings import Settings, load_settings
    from trivet_tasks.errors import (
        BatchIncomplete,
        BatchTaken,
        BrokerUnavailable,
        ClientClosed,
        ConfigError,
        InvalidRequest,
        KeyConflict,
        NotFound,
        ResultTimeout,
        SchemaMismatch,
        SetByOperator,
        StoreError,
        StoreUnavailable,
        StreamFailed,
        TrivetError,
    )
    from trivet_tasks.latency import LatencyName
    from trivet_tasks.outcomes import OutcomeName
    from trivet_tasks.requests.submit_params import RequestParams, StreamParams, SubmitParams
    from trivet_tasks.states import EndStateName, JobStateName

__version__ = "0.1.0"

__all__ = [
    "AsyncBatch",
    "AsyncClient",
    "AsyncJob",
    "Attempt",
    "Batch",
    "BatchIncomplete",
    "BatchTaken",
    "BrokerUnavailable",
    "Callback",
    "Client",
    "ClientClosed",
    "ConfigError",
    "EndStateName",
    "InvalidRequest",
    "Job",
    "JobError",
    "JobStateName",
    "KeyConflict",
    "LatencyName",
    "NotFound",
    "OutcomeName",
    "Progress",
    "RequestParams",
    "Result",
    "ResultTimeout",
    "SchemaMismatch",
    "SetByOperator",
    "Settings",
    "StoreError",
    "StoreUnavailable",
    "StreamFailed",
    "StreamParams",
    "SubmitParams",
    "TrivetError",
    "load_settings",
]


_MODULES = {
    "AsyncBatch": "trivet.client.async_client",
    "AsyncClient": "trivet.client.async_client",
    "AsyncJob": "trivet.client.async_client",
    "Batch": "trivet.client.jobs",
    "Client": "trivet.client.client",
    "Job": "trivet.client.jobs",
    "Attempt": "trivet.client.result",
    "JobError": "trivet.client.result",
    "Result": "trivet.client.result",
    "Callback": "trivet_tasks.callbacks",
    "Settings": "trivet_tasks.config.settings",
    "load_settings": "trivet_tasks.config.settings",
    "Progress": "trivet_store.jobs.batches",
    "EndStateName": "trivet_tasks.states",
    "JobStateName": "trivet_tasks.states",
    "LatencyName": "trivet_tasks.latency",
    "OutcomeName": "trivet_tasks.outcomes",
    "StreamParams": "trivet_tasks.requests.submit_params",
    "RequestParams": "trivet_tasks.requests.submit_params",
    "SubmitParams": "trivet_tasks.requests.submit_params",
}
_ERRORS = "trivet_tasks.errors"


def __getattr__(name: str) -> Any:
    """Import what is asked for: a service or the simulator needs no client, and no database's driver before it starts."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(_MODULES.get(name, _ERRORS)), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
