"""Trivet: a durable queue for Claude jobs over Amazon Bedrock, Google Vertex AI and the Anthropic API.

from trivet import Client

with Client() as client:
    job = client.submit("Summarise: …", model="claude-sonnet-5-5", max_tokens=300, latency="realtime")
    print(job.result(timeout=5).text)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trivet.async_client import AsyncClient
    from trivet.batch import Batch
    from trivet.client import Client
    from trivet.job import Job
    from trivet.result import Attempt, JobError, Result
    from trivet_tasks.errors import (
        BatchIncomplete,
        BrokerUnavailable,
        ConfigError,
        InvalidRequest,
        KeyConflict,
        NotFound,
        ResultTimeout,
        SchemaMismatch,
        StoreError,
        StoreUnavailable,
        TrivetError,
    )
    from trivet_tasks.settings import Settings, load_settings
    from trivet_tasks.store.batches import Progress

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "Attempt",
    "Batch",
    "BatchIncomplete",
    "BrokerUnavailable",
    "Client",
    "ConfigError",
    "InvalidRequest",
    "Job",
    "JobError",
    "KeyConflict",
    "NotFound",
    "Progress",
    "Result",
    "ResultTimeout",
    "SchemaMismatch",
    "Settings",
    "StoreError",
    "StoreUnavailable",
    "TrivetError",
    "load_settings",
]


_MODULES = {
    "AsyncClient": "trivet.async_client",
    "Batch": "trivet.batch",
    "Client": "trivet.client",
    "Job": "trivet.job",
    "Attempt": "trivet.result",
    "JobError": "trivet.result",
    "Result": "trivet.result",
    "Settings": "trivet_tasks.settings",
    "load_settings": "trivet_tasks.settings",
    "Progress": "trivet_tasks.store.batches",
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
