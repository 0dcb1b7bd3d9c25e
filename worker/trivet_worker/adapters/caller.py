"""One attempt through the SDK, under our own clock, and its sorting into an `Answer` or a `Failure`.

The first call of a route, model and key is made with the client's own `post`, cast to the bare HTTP response: that has the
SDK's authentication, URL rewriting and headers, sends a body with any keys as it is (the signature of `messages.create`
knows fewer than the API), and spares the pydantic model that `create` builds and nobody would read. The calls after it
are sent as that one was (`stencil.py`); the body is parsed once, with orjson. CPU a call, 64 at a time, aiohttp
(`benchmarks/call_layers.py`, one run on a slow machine): `create` 2.3 ms, `post` 1.5, this 0.86; on Bedrock, signed, `create`
3.6 and this 1.45.

The response is always taken before its body is read (`stream=True`): only so is a connection that failed before the
headers told from a body that broke off after them.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import anthropic
import httpx2
import orjson

from trivet_tasks.outcomes import Outcome
from trivet_tasks.usage import Usage
from trivet_worker.adapters import headers as wire_headers
from trivet_worker.adapters.assembly import Assembly, BrokenStream
from trivet_worker.adapters.messages import Broken, judge, read_message
from trivet_worker.adapters.network import NETWORK_ERRORS, trouble_from
from trivet_worker.adapters.refusals import body_of, failure_from
from trivet_worker.adapters.stencil import ATTEMPT_HEADER, Stencil
from trivet_worker.adapters.wire import NotReady, Posted, Wire
from trivet_worker.calls import MESSAGE_LIMIT, NO_PURPOSE, Answer, CallPurpose, Failure

_MOST_STENCILS = 64
"""Kept for a route: models times keys, some of which are gone."""
_DRAIN_S = 1.0
"""After a stream's last event: so long for the end of the body, without which the connection cannot be used again."""


@dataclass(slots=True)
class _Progress:
    """How far an attempt has come, for the words of its failure."""

    response: httpx2.Response | None = None
    assembly: Assembly | None = None
    headers: wire_headers.Headers = field(default_factory=dict)

    @property
    def usage(self) -> Usage | None:
        return self.assembly.usage if self.assembly else None

    def failure(
        self, outcome: Outcome, message: str, *, whole_route: bool = False, usage: Usage | None = None
    ) -> Failure:
        """A failure of our own wording, with what is known from the headers."""
        return Failure(
            outcome,
            message[:MESSAGE_LIMIT],
            status=self.response.status_code if self.response else None,
            request_id=wire_headers.request_id(self.headers),
            whole_route=whole_route,
            limits=wire_headers.limits(self.headers),
            usage=usage,
        )


class _Unwritable(Exception):
    """A request that was handed over parsed holds what JSON has no form for."""


class _Refused(Exception):
    """An answer that is no 2xx, its body read."""

    def __init__(self, response: httpx2.Response) -> None:
        super().__init__()
        self.response = response


class SdkCaller:
    """A `Caller` over one wire's SDK client."""

    def __init__(self, wire: Wire, *, stream: bool) -> None:
        self._wire = wire
        self._stream = stream
        self._stencils: dict[tuple[str, str, tuple[tuple[str, str], ...]], Stencil] = {}

    async def call(
        self,
        body: bytes | Mapping[str, Any],
        model: str,
        attempt_id: str,
        timeout_s: float,
        purpose: CallPurpose = NO_PURPOSE,
    ) -> Answer | Failure:
        """See `Caller.call`."""
        progress = _Progress()
        try:
            async with asyncio.timeout(timeout_s) as guard:
                attempt = self._attempt(body, model, attempt_id, purpose, progress)
                del body  # here and below: a prompt in memory once less while its call is under way
                answer = await attempt
        except TimeoutError as error:
            if not guard.expired():
                return self._from_network(error, progress)
            answer = progress.failure(Outcome.TIMEOUT, f"no whole answer within {timeout_s:.3g} s ({_stage(progress)})")
        except NotReady as error:
            outcome = Outcome.CONNECTION if error.transient else Outcome.UNUSABLE
            answer = progress.failure(outcome, str(error), whole_route=not error.transient)
        except anthropic.APIStatusError as error:
            answer = self._from_status(error.status_code, error.response.headers, error.body, progress)
        except _Refused as refused:
            response = refused.response
            answer = self._from_status(response.status_code, response.headers, body_of(response.text), progress)
        except BrokenStream as error:
            answer = progress.failure(Outcome.INCOMPLETE, str(error))
        except NETWORK_ERRORS as error:
            answer = self._from_network(error, progress)
        except anthropic.AnthropicError as error:  # credentials the SDK fetches itself (profiles, workload identity)
            answer = progress.failure(Outcome.UNUSABLE, str(error), whole_route=True)
        return answer

    async def warm(self) -> None:
        """See `Caller.warm`."""
        with contextlib.suppress(NotReady, *NETWORK_ERRORS):
            await self._wire.ready()

    async def close(self) -> None:
        """See `Caller.close`."""
        with contextlib.suppress(NotReady):
            await self._wire.client.close()

    async def _attempt(
        self,
        body: bytes | Mapping[str, Any],
        model: str,
        attempt_id: str,
        purpose: CallPurpose,
        progress: _Progress,
    ) -> Answer | Failure:
        await self._wire.ready()
        try:
            post = self._post(self._posted(body, model, purpose), attempt_id)
            del body
            response = await post
        except _Unwritable as error:
            return progress.failure(Outcome.INVALID, f"the request cannot be written as JSON: {error}")
        progress.response = response
        progress.headers = wire_headers.plain(response.headers)
        try:
            message = await (self._assembled(response, progress) if self._stream else response.aread())
        except BaseException:
            await response.aclose()
            raise
        verdict = read_message(message) if isinstance(message, bytes) else judge(message)
        if isinstance(verdict, Broken):
            return progress.failure(Outcome.INCOMPLETE, verdict.reason, usage=verdict.usage)
        return Answer(
            message=message if isinstance(message, bytes) else orjson.dumps(message),
            stop_reason=verdict.stop_reason,
            usage=verdict.usage,
            request_id=wire_headers.request_id(progress.headers),
            limits=wire_headers.limits(progress.headers) if self._wire.provider == "anthropic" else None,
        )

    def _posted(self, body: bytes | Mapping[str, Any], model: str, purpose: CallPurpose) -> Posted:
        if isinstance(body, bytes):
            return self._wire.post(orjson.loads(body), model, purpose, stream=self._stream)
        try:
            orjson.dumps(body)
        except orjson.JSONEncodeError as error:  # a TypeError, which elsewhere would be somebody's mistake
            raise _Unwritable(str(error)) from None
        return self._wire.post(body, model, purpose, stream=self._stream)

    async def _post(self, posted: Posted, attempt_id: str) -> httpx2.Response:
        """Send it: by the SDK the first time, then as the SDK sent it. APIStatusError, `_Refused`, or of the network."""
        identity = self._wire.identity()
        if identity is None:
            return await self._post_by_sdk(posted, attempt_id)
        key = (identity, posted.model, posted.headers)
        stencil = self._stencils.get(key)
        if stencil is None:
            response = await self._post_by_sdk(posted, attempt_id)
            if len(self._stencils) >= _MOST_STENCILS:
                self._stencils.clear()
            self._stencils[key] = Stencil.of(posted, response.request, signed=self._wire.signed)
            return response
        request = stencil.cut(posted, attempt_id)
        del posted
        response = await self._wire.http.send(request, stream=True, follow_redirects=False)
        if not response.is_success:
            try:
                await response.aread()
            finally:
                await response.aclose()
            raise _Refused(response)
        return response

    async def _post_by_sdk(self, posted: Posted, attempt_id: str) -> httpx2.Response:
        response: httpx2.Response = await self._wire.client.post(
            "/v1/messages",
            cast_to=httpx2.Response,
            body=None if posted.as_it_is else posted.body,
            content=orjson.dumps(posted.body) if posted.as_it_is else None,
            # a prompt goes only where the settings send it, never where a redirect would
            options={
                "headers": {**dict(posted.headers), **dict(posted.of_call), ATTEMPT_HEADER: attempt_id},
                "follow_redirects": False,
            },
            stream=True,
        )
        return response

    async def _assembled(self, response: httpx2.Response, progress: _Progress) -> dict[str, Any]:
        """Read a stream to its last event. The SDK decodes the events, and raises on one that is an error."""
        assembly = progress.assembly = Assembly()
        client: Any = self._wire.client
        events = anthropic.AsyncStream(cast_to=object, response=response, client=client)
        try:
            async for event in events:
                assembly.take(event)
                if assembly.ended:
                    break
        except (*NETWORK_ERRORS, anthropic.AnthropicError, BrokenStream):
            raise
        except Exception as error:  # what json, the UTF-8 and the AWS event decoders raise
            raise BrokenStream(f"an event of the stream is garbled ({type(error).__name__})") from None
        if not assembly.ended:
            raise BrokenStream("the stream ended without its last event")
        await _drain(events)
        return assembly.message

    def _from_status(self, status: int, headers: httpx2.Headers, body: object, progress: _Progress) -> Failure:
        provider, secrets = self._wire.provider, self._wire.secrets()
        failure = failure_from(status, headers, body, provider, secrets=secrets, usage=progress.usage)
        if failure.outcome is Outcome.UNUSABLE and failure.whole_route:
            self._wire.refused()
        return failure

    def _from_network(self, error: BaseException, progress: _Progress) -> Failure:
        trouble = trouble_from(error, headers_seen=progress.response is not None)
        return progress.failure(trouble.outcome, trouble.message, whole_route=trouble.whole_route)


async def _drain(events: anthropic.AsyncStream[Any]) -> None:
    """Read what follows the last event. The message is whole, so nothing that goes wrong here matters."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_DRAIN_S):
            async for _ in events:
                pass
    await events.close()


def _stage(progress: _Progress) -> str:
    if progress.response is None:
        return "it had not begun to answer"
    return "its answer had begun"
