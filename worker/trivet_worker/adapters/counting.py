"""Counting of a request's tokens on a route, over the credentials and the connections that calls have.

Counts are free of charge and have limits of their own. The Anthropic API, Vertex AI, bedrock-mantle and Claude Platform on
AWS answer `/v1/messages/count_tokens`; bedrock-runtime has CountTokens (AWS, "CountTokens"), which takes the body of
InvokeModel, with its `max_tokens`, and as a rule the model's own id alone: it refuses those of inference profiles.
"""

import asyncio
import base64
import contextlib
import urllib.parse
from collections.abc import Mapping
from typing import Any

import anthropic
import httpx2
import orjson

from trivet_tasks.catalog import known
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.errors import place_of
from trivet_tasks.foreign_text import clean
from trivet_tasks.outcomes import Outcome, Scope
from trivet_worker.adapters import build_wire
from trivet_worker.adapters.answers import NotJson, loads
from trivet_worker.adapters.credentials import NotReady
from trivet_worker.adapters.errors import network_failure, provider_failure
from trivet_worker.adapters.http import NETWORK_ERRORS, ErrorAnswer, TooLarge, read_body, timeout_within
from trivet_worker.adapters.protocol import MESSAGE_LIMIT, CallPurpose, Failure
from trivet_worker.adapters.wire import Posted

MAX_ANSWER_BYTES = 64 * 1024
LARGEST_COUNT = 10**9
"""Largest count that is believed."""
_ROOM = 1_024
"""`max_tokens` of a body that needs some, beyond its thinking budget. It changes no count."""


class TokenCounter:
    """Counts the tokens of requests on one route. Lives in one event loop; any number of counts at a time.

        counter = TokenCounter(settings.routes["anthropic"])
        found = await counter.count({"messages": […]}, "claude-haiku-4-5", "claude-haiku-4-5-20251001", 5.0)

    Clients and credentials are made at the first count.
    """

    def __init__(self, route: RouteSettings) -> None:
        self._route = route
        self._wire = build_wire(route)

    async def count(self, body: Mapping[str, Any], model: str, named: str, timeout_s: float) -> int | Failure:
        """Return the number of input tokens, or why there is none. One try, without retries.

        Args:
            body: the request of the Messages API, without `model`.
            model: the model's first-party id.
            named: the model's id on this wire.
            timeout_s: seconds for everything.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await self._counted(body, model, named, timeout_s)
        except TimeoutError:
            return Failure(Outcome.TIMEOUT, f"no answer within {timeout_s:.3g} s")
        except NotReady as error:
            return Failure(Outcome.UNUSABLE, clean(str(error), MESSAGE_LIMIT), scope=Scope.ROUTE)
        except ErrorAnswer as error:
            failure = provider_failure(error, self._wire.provider, secrets=self._wire.secrets(), usage=None)
            if failure.scope is Scope.ROUTE:
                self._wire.forget_credentials()
            return failure
        except (TooLarge, NotJson) as error:
            return Failure(Outcome.INCOMPLETE, clean(str(error), MESSAGE_LIMIT))
        except NETWORK_ERRORS as error:
            found = network_failure(error, headers_seen=False)
            return Failure(found.outcome, found.message, scope=found.scope)
        except anthropic.AnthropicError as error:  # credentials that the SDK fetches itself
            return Failure(Outcome.UNUSABLE, clean(str(error), MESSAGE_LIMIT), scope=Scope.ROUTE)

    async def close(self) -> None:
        """Close the connections. The counter cannot be used afterwards."""
        with contextlib.suppress(NotReady):
            await self._wire.client.close()

    async def _counted(self, body: Mapping[str, Any], model: str, named: str, timeout_s: float) -> int | Failure:
        await self._ready()
        posted = self._wire.post(body, named, CallPurpose(model), stream=False)
        timeout = timeout_within(timeout_s, stream=False)
        if self._route.provider != "bedrock" or self._route.endpoint in ("mantle", "platform"):
            return await self._answered("/v1/messages/count_tokens", posted, timeout)
        names = [base for entry in (known(model),) if entry and (base := entry.bedrock) and named.endswith(base)]
        refused: ErrorAnswer | None = None
        for name in dict.fromkeys([*names, named]):  # of newer models it may take the profile alone
            try:
                return await self._answered(self._aws_address(name), self._aws_request(posted, model), timeout)
            except ErrorAnswer as error:
                if error.status != 400:
                    raise
                refused = refused or error
        assert refused is not None
        raise refused

    async def _ready(self) -> None:
        try:
            await self._wire.ready()
        except NotReady:
            raise
        except Exception as error:  # whatever the chain of credentials raises
            raise NotReady(f"the credentials cannot be had: {place_of(error)}") from None

    def _aws_address(self, name: str) -> str:
        """Return the address of CountTokens: beside the Messages API, not below it, on an endpoint that speaks that."""
        path = f"/model/{urllib.parse.quote(name, safe=':')}/count-tokens"
        base = str(self._wire.client.base_url).rstrip("/")
        return f"{base.removesuffix('/anthropic')}{path}"

    def _aws_request(self, posted: Posted, model: str) -> Posted:
        asked = {name: value for name, value in posted.body.items() if name not in ("model", "stream")}
        asked["anthropic_version"] = asked.get("anthropic_version") or "bedrock-2023-05-31"
        thinking = asked.get("thinking")
        budget = thinking.get("budget_tokens") if isinstance(thinking, dict) else None
        asked.setdefault("max_tokens", _ROOM + (budget if isinstance(budget, int) else 0))
        wrapped = base64.b64encode(orjson.dumps(asked)).decode()
        return Posted({"input": {"invokeModel": {"body": wrapped}}}, model, posted.headers, as_it_is=True)

    async def _answered(self, path: str, posted: Posted, timeout: httpx2.Timeout) -> int | Failure:  # noqa: ASYNC109
        response: httpx2.Response = await self._wire.client.post(
            path,
            cast_to=httpx2.Response,
            body=None if posted.as_it_is else posted.body,
            content=orjson.dumps(posted.body) if posted.as_it_is else None,
            # a prompt goes only where the settings send it, never where a redirect would
            options={"headers": dict(posted.headers), "follow_redirects": False, "timeout": timeout},
            stream=True,
        )
        try:
            found = loads(await read_body(response, MAX_ANSWER_BYTES, response.headers.get("content-encoding", "")))
        finally:
            await response.aclose()
        for name in ("input_tokens", "inputTokens"):
            tokens = found.get(name) if isinstance(found, dict) else None
            if isinstance(tokens, int) and not isinstance(tokens, bool) and 0 <= tokens <= LARGEST_COUNT:
                return tokens
        return Failure(Outcome.INCOMPLETE, "the answer states no count")
