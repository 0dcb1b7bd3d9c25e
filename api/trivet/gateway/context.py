"""What the endpoints of one gateway process share."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from trivet.admin import Admin
from trivet.client.client import Client
from trivet_tasks.config.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")

MAX_CALLS = 16
"""Calls of the client that one process makes at a time: each holds a thread and perhaps a database connection."""


class Gateway:
    """The client, the operations API and the threads in which their calls run. For one event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.client = Client(settings=settings)
        self.admin = Admin(settings=settings)
        self._threads = ThreadPoolExecutor(MAX_CALLS, thread_name_prefix="trivet-gateway")

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking call in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(*args, **kwargs))

    def close(self) -> None:
        """Close the connections. Jobs go on."""
        self.client.close()
        self.admin.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
