"""The event loop in which a client that is used from threads reads streamed answers."""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from trivet.client.answer_streams import AnswerStreams, JobStream
from trivet_tasks.errors import ClientClosed

T = TypeVar("T")

CLOSE_WITHIN_S = 3.0


class StreamLoop:
    """A thread with an event loop, and the readers of all streamed answers of one client in it."""

    def __init__(self, streams: AnswerStreams) -> None:
        self.streams = streams
        self._lock = threading.RLock()
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="trivet-streams", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop, and wait for it.

        Raises:
            ClientClosed: after `close`, or because of it.
        """
        with self._lock:  # what is handed to the loop before `close` is ended by it
            if self._closed:
                work.close()
                raise _closed()
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except CancelledError:
            raise _closed() from None
        except BaseException:  # an interrupt: nobody waits any more
            with self._lock:
                if not self._closed:
                    future.cancel()
            raise

    def leave(self, stream: JobStream) -> None:
        """Close a reader. Does nothing after `close`."""
        with contextlib.suppress(ClientClosed):
            self.run(stream.close())

    def close(self) -> None:
        """Close the readers, and end the thread. Threads that wait in `run` raise `ClientClosed`."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            closing = asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        with contextlib.suppress(TimeoutError):
            closing.result(CLOSE_WITHIN_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_WITHIN_S)
        if not self._thread.is_alive():
            self._loop.close()

    async def _end(self) -> None:
        await self.streams.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await asyncio.sleep(0)  # the threads that wait are told by callbacks of their tasks


def _closed() -> ClientClosed:
    return ClientClosed("The client was closed: streamed answers are read no more.")
