"""One attempt through the SDK, under our own clock, classified as an `Answer` or a `Failure`.

The first call of a route, model and key is made with the client's own `post`, cast to the bare HTTP response: that has
the SDK's authentication, URL rewriting and headers, sends a body with any keys as it is (the signature of
`messages.create` knows fewer than the API), and spares the pydantic model that `create` builds, which is not used here.
The calls after it are sent as that one was (`RequestTemplate`); the body is parsed once, with orjson. CPU a call, 64 at
a time, aiohttp (`benchmarks/call_layers.py`, one run on a slow machine): `create` 2.3 ms, `post` 1.5, this 0.86; on
Bedrock, signed, `create` 3.6 and this 1.45.

The response is always taken before its body is read (`stream=True`): only this distinguishes a connection that failed
before the headers from a body that broke off after them.
"""

import asyncio
import contextlib
import logging
from dataclasses import replace
from typing import Any

import anthropic
import httpx2
import orjson
from cachetools import LRUCache

from trivet_tasks.config.addresses import DIRECTLY, way_out
from trivet_tasks.errors import place_of
from trivet_tasks.foreign_text import clean
from trivet_tasks.outcomes import Outcome, Scope
from trivet_worker.adapters import headers as wire_headers
from trivet_worker.adapters.answers import Broken, Whole, judge, read_message
from trivet_worker.adapters.assembly import BrokenStream
from trivet_worker.adapters.credentials import NotReady
from trivet_worker.adapters.errors import error_in_body, is_local_io, network_failure, provider_failure
from trivet_worker.adapters.http import (
    MAX_ANSWER_BYTES,
    NETWORK_ERRORS,
    Contact,
    ErrorAnswer,
    TooLarge,
    build_http_client,
    noting,
    read_body,
    timeout_within,
)
from trivet_worker.adapters.progress import Progress
from trivet_worker.adapters.protocol import (
    MESSAGE_LIMIT,
    NO_PURPOSE,
    Answer,
    CallLimits,
    CallPurpose,
    Credentials,
    EventSink,
    Failure,
    LocalCause,
    StreamLimits,
)
from trivet_worker.adapters.stream_events import reader_for
from trivet_worker.adapters.streaming import Silence, StreamedAnswer, receive, silence_limits
from trivet_worker.adapters.wire import ATTEMPT_HEADER, Posted, RequestTemplate, Wire

log = logging.getLogger("trivet.adapters")

EXTRA_HEADERS = "extra_headers"
"""Key of a stored body: headers that the request brings."""
_AS_IT_COMES = ("accept-encoding", "identity")
"""Header of a streamed call: what compresses a stream on its way may hold it back, and it cannot be gathered."""
_MAX_TEMPLATES = 64
"""Maximum number of templates of a route: models times keys, some of which are gone."""


class SdkCaller:
    """A `Caller` over one wire's SDK client."""

    def __init__(self, wire: Wire, *, stream: bool | None) -> None:
        """Prepare; no connection is made yet.

        Args:
            stream: all answers are streamed, none is, or, for None, those of calls whose limits ask for it.
        """
        self._wire = wire
        self._stream = stream
        self._templates: LRUCache[tuple[str, str, tuple[tuple[str, str], ...], bool], RequestTemplate] = LRUCache(
            _MAX_TEMPLATES
        )
        self._refused: tuple[str, ...] | None = None
        """The wire's `secrets` at the time when the provider did not accept them."""

    async def call(
        self,
        body: bytes,
        model: str,
        attempt_id: str,
        limits: CallLimits,
        purpose: CallPurpose = NO_PURPOSE,
        sink: EventSink | None = None,
    ) -> Answer | Failure:
        """See `Caller.call`."""
        stream = None if self._stream is False else limits.stream or (StreamLimits() if self._stream else None)
        streams = stream is not None
        progress = Progress(
            self._wire.provider,
            timeout_within(limits.total_s, stream=streams),
            asyncio.get_running_loop().time() + limits.total_s,
            contact=Contact(gathers=streams and sink is None),
            sink=sink,
        )
        try:
            async with asyncio.timeout(limits.total_s) as guard:
                if stream is not None:
                    progress.silence = Silence(guard, *silence_limits(stream, body, pings=self._wire.pings))
                attempt = self._attempt(body, model, attempt_id, purpose, progress)
                del body  # here and below: a prompt in memory once less while its call is under way
                answer = await attempt
        except TimeoutError as error:
            answer = self._late(limits.total_s, progress) if guard.expired() else self._from_network(error, progress)
        except NotReady as error:
            answer = self._not_ready(error, progress)
        except ErrorAnswer as error:
            answer = self._from_provider(error, progress)
        except (BrokenStream, TooLarge) as error:
            answer = progress.failure(Outcome.INCOMPLETE, str(error))
        except asyncio.CancelledError:
            if (usage := progress.stated_usage()) is None:
                raise
            answer = progress.failure(Outcome.CANCELLED, "dropped on our side", usage=usage)
        except NETWORK_ERRORS as error:
            if progress.response is None and is_local_io(error):  # credentials that the SDK reads itself
                answer = self._not_ready(NotReady(f"the credentials cannot be read: {_file_words(error)}"), progress)
            else:
                answer = self._from_network(error, progress)
        except anthropic.AnthropicError as error:  # credentials the SDK fetches itself (profiles, workload identity)
            refused_key = LocalCause.KEY_REFUSED
            answer = progress.failure(Outcome.UNUSABLE, str(error), scope=Scope.ROUTE, local_cause=refused_key)
        except Exception as error:
            if not progress.sent:
                raise
            log.error("the call %s ended in a fault of Trivet's own: %s", attempt_id, place_of(error))
            text = f"a fault of Trivet's own: {place_of(error)}"
            answer = progress.failure(Outcome.SERVER_ERROR, text, own_fault=True)
        finally:
            if progress.silence is not None:
                progress.silence.close()
        return answer

    async def credentials(self) -> Credentials:
        """See `Caller.credentials`."""
        try:
            await self._ready()
        except NotReady as error:
            return Credentials(missing=clean(str(error), MESSAGE_LIMIT))
        return Credentials(renewed=self._refused is not None and self._wire.secrets() != self._refused)

    async def reach(self, timeout_s: float) -> str:
        """See `Caller.reach`."""
        try:
            async with asyncio.timeout(timeout_s) as guard:
                url = self._wire.client.base_url.copy_with(path="/", query=None)
                # a connection of its own: one that calls have kept says nothing of whether another can be made
                async with build_http_client(1) as http:
                    response = await http.send(http.build_request("GET", url), stream=True, follow_redirects=False)
                    await response.aclose()
        except ErrorAnswer:  # an answer, which is all that was asked for
            return ""
        except NotReady as error:
            return str(error)
        except NETWORK_ERRORS as error:
            expired = isinstance(error, TimeoutError) and guard.expired()
            return (
                f"no answer within {timeout_s:g} s" if expired else network_failure(error, headers_seen=False).message
            )
        return ""

    async def close(self) -> None:
        """See `Caller.close`."""
        with contextlib.suppress(NotReady):
            await self._wire.client.close()

    async def _attempt(
        self, body: bytes, model: str, attempt_id: str, purpose: CallPurpose, progress: Progress
    ) -> Answer | Failure:
        await self._ready()
        stream = progress.silence is not None
        post = self._post(
            self._posted(body, model, purpose, stream=stream), attempt_id, progress.timeout, stream=stream
        )
        del body
        progress.sent = True
        with noting(progress.contact):
            response = await post
        progress.response = response
        progress.headers = wire_headers.plain(response.headers)
        try:
            message = await self._read(response, progress)
        except BaseException:
            await response.aclose()
            raise
        if isinstance(message, Whole):
            return self._answer(message, progress)
        if message.error is not None:
            raise error_in_body(message.error, response.headers)
        return progress.failure(Outcome.INCOMPLETE, message.reason, usage=message.usage)

    async def _ready(self) -> None:
        """Get credentials. All errors of the chain become NotReady, transient where the network failed."""
        try:
            await self._wire.ready()
        except NotReady:
            raise
        except Exception as error:
            if is_local_io(error):
                raise NotReady(f"the credentials cannot be read: {_file_words(error)}") from None
            if isinstance(error, NETWORK_ERRORS):
                words = network_failure(error, headers_seen=False).message
                raise NotReady(f"the credentials cannot be fetched: {words}", transient=True) from None
            if isinstance(error, anthropic.AnthropicError):
                raise NotReady(str(error)) from None
            raise NotReady(f"the credentials cannot be had: {place_of(error)}") from None

    async def _read(self, response: httpx2.Response, progress: Progress) -> Whole | Broken:
        """Read the body of a 200, streamed or, where a gateway does not stream, whole."""
        encoding = progress.headers.get("content-encoding", "")
        kind = progress.headers.get("content-type", "")
        silence = progress.silence
        if silence is None or kind.startswith("application/json"):
            if silence is not None:
                silence.close()
            body = await read_body(response, MAX_ANSWER_BYTES, encoding)
            await response.aclose()
            return read_message(body)
        progress.answer = answer = StreamedAnswer(
            reader_for(kind, self._wire.provider), response.headers, progress.sink
        )
        try:
            await receive(response, encoding, answer, silence, progress.contact.gathered, progress.until)
        except NETWORK_ERRORS:
            answer.read()
            if not answer.assembly.is_whole:
                raise
            await response.aclose()
        return judge(answer.assembly.message())

    def _answer(self, whole: Whole, progress: Progress) -> Answer:
        return Answer(
            message=whole.message,
            stop_reason=whole.stop_reason,
            usage=whole.usage,
            request_id=wire_headers.request_id(progress.headers),
            limits=wire_headers.limits(progress.headers) if self._wire.provider == "anthropic" else None,
        )

    def _late(self, total_s: float, progress: Progress) -> Answer | Failure:
        """Return the result after the guard fired. A message that was complete by then is an answer."""
        if progress.answer is not None:
            try:
                progress.answer.read()
                message = judge(progress.answer.assembly.message())
            except ErrorAnswer as error:
                return self._from_provider(error, progress)
            except (BrokenStream, TooLarge):
                message = None
            if isinstance(message, Whole):
                return self._answer(message, progress)
        received = progress.answer.received if progress.answer else 0
        silence = progress.silence.words(received) if progress.silence and progress.silence.ended else ""
        if not progress.contact.made:
            stage = "no connection" if progress.sent else "no credentials"
            limit_s = progress.silence.first_byte_s if progress.silence and silence else total_s
            text = f"{stage} within {limit_s:.3g} s{self._way()}"
            return progress.failure(Outcome.CONNECTION, text, local_cause=LocalCause.UNREACHED)
        if silence:
            return progress.failure(Outcome.TIMEOUT, silence, stalled=True)
        stage = "it had not begun to answer" if progress.response is None else "its answer had begun"
        text = f"no whole answer within {total_s:.3g} s ({stage})"
        return progress.failure(Outcome.TIMEOUT, text)

    def _posted(self, body: bytes, model: str, purpose: CallPurpose, *, stream: bool) -> Posted:
        request: dict[str, Any] = orjson.loads(body)
        headers = request.pop(EXTRA_HEADERS, None)
        posted = self._wire.post(request, model, purpose, stream=stream)
        if stream:
            posted = replace(posted, headers=(*posted.headers, _AS_IT_COMES))
        return replace(posted, of_call=(*posted.of_call, *headers.items())) if headers else posted

    async def _post(self, posted: Posted, attempt_id: str, sockets: httpx2.Timeout, *, stream: bool) -> httpx2.Response:
        """Send it: by the SDK the first time, then as the SDK sent it. `ErrorAnswer`, or an error of the network."""
        identity = self._wire.identity()
        if identity is None:
            return await self._post_by_sdk(posted, attempt_id, sockets)
        key = (identity, posted.model, posted.headers, stream)
        template = self._templates.get(key)
        if template is None:
            response = await self._post_by_sdk(posted, attempt_id, sockets)
            self._templates[key] = RequestTemplate.of(posted, response.request, signed=self._wire.signed)
            return response
        request = template.cut(posted, attempt_id, sockets)
        del posted
        return await self._wire.http.send(request, stream=True, follow_redirects=False)

    async def _post_by_sdk(self, posted: Posted, attempt_id: str, sockets: httpx2.Timeout) -> httpx2.Response:
        response: httpx2.Response = await self._wire.client.post(
            "/v1/messages",
            cast_to=httpx2.Response,
            body=None if posted.as_it_is else posted.body,
            content=orjson.dumps(posted.body) if posted.as_it_is else None,
            # a prompt goes only where the settings send it, never where a redirect would
            options={
                "headers": {**dict(posted.headers), **dict(posted.of_call), ATTEMPT_HEADER: attempt_id},
                "follow_redirects": False,
                "timeout": sockets,
            },
            stream=True,
        )
        return response

    def _from_provider(self, error: ErrorAnswer, progress: Progress) -> Failure:
        secrets = self._wire.secrets()
        assembly = progress.answer.assembly if progress.answer else None
        usage = assembly.usage if assembly else None
        failure = provider_failure(error, self._wire.provider, secrets=secrets, usage=usage)
        if assembly is not None and assembly.began:
            failure = replace(failure, may_be_billed=True)
        if failure.scope is Scope.ROUTE:
            self._refused = secrets
            self._wire.forget_credentials()
        return failure

    def _not_ready(self, error: NotReady, progress: Progress) -> Failure:
        """Return a failure before anything was sent. Where credentials could not be fetched, the way out is at fault."""
        if error.transient:
            return progress.failure(Outcome.CONNECTION, str(error), local_cause=LocalCause.UNREACHED)
        cause = LocalCause.NO_CREDENTIALS
        return progress.failure(Outcome.UNUSABLE, str(error), scope=Scope.ROUTE, local_cause=cause)

    def _from_network(self, error: BaseException, progress: Progress) -> Failure:
        failure = network_failure(error, headers_seen=progress.response is not None)
        if not failure.unreached:
            return progress.failure(failure.outcome, failure.message, scope=failure.scope)
        way = self._way()
        message = f"{failure.message[: MESSAGE_LIMIT - 150]}{way}" if way else failure.message
        return progress.failure(failure.outcome, message, scope=failure.scope, local_cause=LocalCause.UNREACHED)

    def _way(self) -> str:
        """Return the proxy that calls go through, to be put behind a message; nothing where there is none."""
        try:
            way = way_out(str(self._wire.client.base_url))
        except NotReady:
            return ""
        return "" if way == DIRECTLY else f", {way}"


def _file_words(error: BaseException) -> str:
    """Name the file or program, and the system's words for what is wrong with it."""
    if not isinstance(error, OSError):
        return type(error).__name__
    return f"{error.filename}: {error.strerror or type(error).__name__}"
