"""The event loop in which a client that is used from threads reads streamed answers."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from trivet.client.answer_streams import AnswerStreams

T = TypeVar("T")

CLOSE_WITHIN_S = 3.0


class StreamLoop:
    """A thread with an event loop, and the readers of all streamed answers of one client in it."""

    def __init__(self, streams: AnswerStreams) -> None:
        self.streams = streams
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="trivet-streams", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop, and wait for it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:  # an interrupt: nobody waits any more
            future.cancel()
            raise

    def close(self) -> None:
        """Close the readers, and end the thread."""
        closing = asyncio.run_coroutine_threadsafe(self.streams.close(), self._loop)
        closing.result(CLOSE_WITHIN_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_WITHIN_S)
        if not self._thread.is_alive():
            self._loop.close()
