"""`stream: true`: the events of a job's answer as server-sent events, in the shapes of the Messages API.

Status and headers wait for the first token, so that an error before it has its own status, as an answer that is not streamed
has. If that takes long they go out with a `ping`, and from then on an error is an event.
"""

import contextlib
from collections.abc import AsyncIterator, Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from trivet.client.answer_streams import Broken, Ended, JobStream, StreamItem
from trivet.client.jobs import Job
from trivet.gateway.answering import ClientLeft, ClientWatch, cancel_unless_kept, error_of, headers_of, stopping
from trivet.gateway.context import Gateway
from trivet.gateway.errors import ApiError
from trivet.gateway.job_errors import retry_headers, rule_of
from trivet.gateway.requests import Asked
from trivet_tasks.errors import ClientClosed

PING = b'event: ping\ndata: {"type": "ping"}\n\n'


async def begin_stream(request: Request, gateway: Gateway, job: Job, asked: Asked) -> Response:
    """Wait for the first token, then return the answer that sends it and what follows.

    Raises:
        ApiError: the job failed before its first token.
        ClientLeft: the client has gone.
        ClientClosed: this process stops.
    """
    stream = await gateway.streams.open(job.id)
    try:
        items: Sequence[StreamItem] = ()
        async with ClientWatch(request) as client:
            with contextlib.suppress(TimeoutError):
                items = await client.wait_for(stream.next, gateway.bounds.first_token_wait_s)
        if items and isinstance(items[0], Broken):
            raise await _error_of(gateway, job, items[0])
    except BaseException:
        await stream.close()
        raise
    return StreamedAnswer(gateway, job, asked, stream, items)


async def _error_of(gateway: Gateway, job: Job, broken: Broken) -> ApiError:
    if broken.result is not None:
        return await error_of(gateway, job, broken.result)
    rule = rule_of(broken.outcome)
    return ApiError(rule.status, broken.message, {"x-trivet-job": job.id, **retry_headers(rule)})


class StreamedAnswer(Response):
    """The events of one job. Ends with the job's last event, with an `error` event, or when its client goes away."""

    media_type = "text/event-stream"

    def __init__(
        self, gateway: Gateway, job: Job, asked: Asked, stream: JobStream, first: Sequence[StreamItem]
    ) -> None:
        """Take what has come so far.

        Args:
            first: the items before the head is sent; none: they take too long to wait for.
        """
        known = headers_of(first[-1].result) if first and isinstance(first[-1], Ended) else {"x-trivet-job": job.id}
        super().__init__(None, headers={"cache-control": "no-cache", "x-accel-buffering": "no", **known})
        del self.headers["content-length"]
        self._gateway = gateway
        self._job = job
        self._asked = asked
        self._stream = stream
        self._first = first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the head and all events. A client that does not read is waited for; the connection bounds that."""
        request = Request(scope, receive)
        try:
            with self._gateway.counted():
                async with ClientWatch(request) as client:
                    await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                    async for data in self._events(client, request.state.request_id):
                        await send({"type": "http.response.body", "body": data, "more_body": True})
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
        except ClientLeft:
            await cancel_unless_kept(self._gateway, self._job, self._asked)
        finally:
            await self._stream.close()

    async def _events(self, client: ClientWatch, request_id: str) -> AsyncIterator[bytes]:
        items = self._first
        if not items:
            yield PING
        while True:
            last = items[-1] if items else None
            data = [
                f"event: {item.type}\ndata: ".encode() + item.data + b"\n\n"
                for item in items
                if not isinstance(item, Ended | Broken)
            ]
            if isinstance(last, Broken):
                data.append(_error_event(await _error_of(self._gateway, self._job, last), request_id))
            if data:
                yield b"".join(data)
            if isinstance(last, Ended | Broken):
                return
            try:
                items = await client.wait_for(self._stream.next, self._gateway.bounds.ping_s)
            except TimeoutError:
                items = ()
                yield PING
            except ClientClosed:
                yield _error_event(await stopping(self._gateway, self._job, self._asked), request_id)
                return


def _error_event(error: ApiError, request_id: str) -> bytes:
    return b"event: error\ndata: " + error.body(request_id) + b"\n\n"
