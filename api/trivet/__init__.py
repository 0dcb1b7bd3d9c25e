"""Trivet: a durable queue for Claude jobs over Amazon Bedrock, Google Vertex AI and the Anthropic API.

from trivet import Client

with Client() as client:
    job = client.submit("Summarise: …", model="claude-sonnet-5-5", max_tokens=300, latency="realtime")
    print(job.result(timeout=5).text)
"""

from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from trivet.async_client import AsyncClient

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


def __getattr__(name: str) -> Any:
    if name == "AsyncClient":  # loads asyncio, which most producers do not need
        from trivet.async_client import AsyncClient

        return AsyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
