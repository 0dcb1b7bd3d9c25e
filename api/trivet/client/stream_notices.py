"""Notices of streamed answers: one subscription to the channels of all the jobs that are read in one event loop."""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import orjson
import redis

from trivet_routing.answer_stream import STREAMS, stream_of
from trivet_tasks.shared_state import FINISHED_CHANNEL

_LISTEN_S = 1.0


class StreamNotices:
    """The jobs that are listened for, and the subscription to their channels.

    Args:
        on_news: called with the id of a job whose stream has new entries, or may have.
        on_finished: called with the ids of jobs that may have ended.
    """

    def __init__(self, on_news: Callable[[str], None], on_finished: Callable[[Iterable[str]], None]) -> None:
        self._on_news = on_news
        self._on_finished = on_finished
        self._jobs: set[str] = set()
        self._missing: set[str] = set()
        """Jobs whose channels are not subscribed to yet."""
        self._subscription: Any = None

    async def add(self, job_id: str) -> None:
        """Listen for a job: at once, or once there is a subscription again."""
        if job_id in self._jobs:
            return
        self._jobs.add(job_id)
        self._missing.add(job_id)
        with contextlib.suppress(redis.RedisError, OSError):  # `listen` subscribes to what is missing
            await self._subscribe_missing()

    async def remove(self, job_id: str) -> None:
        """Listen for a job no more."""
        self._jobs.discard(job_id)
        self._missing.discard(job_id)
        if self._subscription is not None:
            with contextlib.suppress(redis.RedisError, OSError):
                await self._subscription.unsubscribe(stream_of(job_id))

    async def listen(self, shared_state: Any) -> None:
        """Listen until the connection fails.

        Raises:
            redis.RedisError, OSError: it has failed, or cannot be made.
        """
        try:
            async with shared_state.pubsub() as subscription:
                await subscription.subscribe(FINISHED_CHANNEL)
                # from here on `add` subscribes by itself: a reader that came meanwhile is among the missing
                self._subscription, self._missing = subscription, set(self._jobs)
                while True:
                    await self._subscribe_missing()
                    message = await subscription.get_message(timeout=_LISTEN_S)
                    if message is not None:
                        self._hear(message)
        finally:
            self._subscription = None

    async def _subscribe_missing(self) -> None:
        if self._subscription is None or not self._missing:
            return
        jobs, self._missing = self._missing, set()
        try:
            await self._subscription.subscribe(*map(stream_of, jobs))
        except BaseException:
            self._missing |= jobs & self._jobs
            raise

    def _hear(self, message: dict[str, Any]) -> None:
        channel = message["channel"].decode(errors="replace")
        if channel != FINISHED_CHANNEL:
            # also on the reply to a subscription: what came before it had no notice
            self._on_news(channel.removeprefix(STREAMS))
        elif message["type"] == "message":
            with contextlib.suppress(ValueError, TypeError, KeyError):  # not a notice of Trivet's
                self._on_finished(self._jobs & set(orjson.loads(message["data"])["jobs"]))
