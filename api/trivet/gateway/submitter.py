"""Submitting for many requests at a time: what arrives while the database is busy goes into its next transaction together."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar

from trivet.client.client import Client
from trivet.client.jobs import Job

P = ParamSpec("P")
T = TypeVar("T")

MAX_TOGETHER = 64
"""Maximum number of jobs of one transaction."""
MAX_BYTES_TOGETHER = 2**20
"""Size of requests from which on no more go into the same transaction."""
BUSY_REQUESTS = 16
"""Requests that wait for an answer from which on a group is given time to gather: each of them costs less CPU then."""
GATHER_S = 0.005
"""Seconds of that time."""
MAX_GROUPS = 1
"""Groups that are being written at a time: what comes meanwhile makes the next one larger, and cheaper for each."""


class Run(Protocol):
    """Runs a blocking call in a thread, as `Gateway.run` does."""

    async def __call__(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the call's result."""


class _Request(NamedTuple):
    fields: Mapping[str, Any]
    streamed: bool
    size: int
    job: asyncio.Future[Job]


class Submitter:
    """Submits the requests of one event loop, in the order they came, in groups.

    Example:
        job = await submitter.submit({"model": "claude-haiku-4-5", "max_tokens": 100, "messages": […]}, size=200)
    """

    def __init__(self, client: Client, run: Run, busy: Callable[[], int]) -> None:
        """Take the client.

        Args:
            busy: returns how many requests wait for an answer.
        """
        self._busy = busy
        self._client = client
        self._run = run
        self._waiting: deque[_Request] = deque()
        self._writing: set[asyncio.Task[None]] = set()

    async def submit(self, fields: Mapping[str, Any], *, size: int = 0, streamed: bool = False) -> Job:
        """Submit one job; when this returns it is on disk.

        Args:
            fields: the request as `Client.submit` takes it.
            size: bytes of its body.
            streamed: whether its answer is read while it comes.

        Raises:
            InvalidRequest, KeyConflict, StoreUnavailable, BrokerUnavailable: as of `Client.submit`.
        """
        job: asyncio.Future[Job] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Request(fields, streamed, size, job))
        if len(self._writing) < MAX_GROUPS:
            task = asyncio.create_task(self._write())
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)
        return await job

    async def _write(self) -> None:
        while self._waiting:
            if self._busy() >= BUSY_REQUESTS:
                await asyncio.sleep(GATHER_S)
            group = self._next_group()
            try:
                submitted = await self._run(
                    self._client.submit_together, [(request.fields, request.streamed) for request in group]
                )
            except Exception as error:  # each of them is told; the next group has its own fate
                for request in group:
                    _tell(request.job, error)
                continue
            for request, one in zip(group, submitted, strict=True):
                _tell(request.job, one)

    def _next_group(self) -> list[_Request]:
        group: list[_Request] = []
        size = 0
        while self._waiting and len(group) < MAX_TOGETHER and size < MAX_BYTES_TOGETHER:
            request = self._waiting.popleft()
            if request.job.cancelled():  # its client has gone
                continue
            group.append(request)
            size += request.size
        return group


def _tell(future: asyncio.Future[Job], result: Job | Exception) -> None:
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
