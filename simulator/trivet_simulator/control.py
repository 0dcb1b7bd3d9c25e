"""The control port: JSON over HTTP, and the two credential endpoints.

Requests of a page of another site, and under a name that is not loopback's, are refused (403).

GET  /health                       {"status": "ok"}
GET  /providers                    ports, counts, faults, limits, latency of each provider
PUT  /providers/{p}/fault          one fault or a list: replaces what is set (POST adds; DELETE clears)
PUT  /providers/{p}/limits         replaces the limits; {} lifts them
PUT  /providers/{p}/latency        median_s, p95_s, per_output_token_s
POST /providers/{p}/down | up      closes the port, opens it again
PUT  /replies                      one scripted reply or a list: replaces what is set (POST puts before it; DELETE clears, /replies/ID one)
GET  /replies                      filters and counts of what is set
GET  /calls?since=N&running=1      finished calls from number N on as JSON lines (then those still running)
GET  /counts?wait=N&of=finished&provider=P&timeout=S    counts, maybe once N calls have started or finished
GET  /faults                       the catalogue
POST /reset                        back to how it started
POST /token, GET /credentials      see tokens.py
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import parse_qsl

import orjson

from trivet_simulator.calls import CallLog
from trivet_simulator.catalogue import BEHAVIOURS, REPLIES
from trivet_simulator.checks import ControlError, mapping
from trivet_simulator.faults import fault_from
from trivet_simulator.http import LAST_CHUNK, Exchange, Request, chunk, head, response
from trivet_simulator.latency import latency_from
from trivet_simulator.limits import rules_from as limits_from
from trivet_simulator.ports import HOST, Port
from trivet_simulator.provider import Provider
from trivet_simulator.scripted import ReplyBook, rules_from
from trivet_simulator.tokens import Credentials
from trivet_tasks.config.local_requests import RequestGuard

JSON = {"content-type": "application/json"}
MAX_WAIT_S = 600.0


class Controlled(Protocol):
    """Simulator as the control port sees it."""

    providers: dict[str, Provider]
    ports: dict[str, Port]
    log: CallLog
    replies: ReplyBook
    credentials: Credentials

    def url(self, name: str) -> str:
        """Return a provider's base URL."""

    async def down(self, name: str) -> None:
        """Close a provider's port: connections are refused, calls in flight are reset."""

    async def up(self, name: str) -> None:
        """Open a provider's port again."""

    async def reset(self) -> None:
        """Return to how it started."""


class ControlHandler:
    """Answers the control port's requests."""

    def __init__(self, simulator: Controlled) -> None:
        self._simulator = simulator
        self._guard = RequestGuard(HOST)
        self._tasks: set[asyncio.Task[None]] = set()

    def handle(self, exchange: Exchange) -> None:
        """Answer one request, at once where nothing must be waited for."""
        task = asyncio.get_running_loop().create_task(self._answer(exchange))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, exchange: Exchange) -> None:
        request = exchange.request
        refused = self._guard.refusal(
            request.method, request.header(b"host"), request.header(b"origin"), request.header(b"sec-fetch-site")
        )
        if refused is not None:
            exchange.send(_json(403, {"error": f"refused: {refused}", "field": None}))
            return
        try:
            reply = await self._route(exchange)
        except ControlError as error:
            reply = _json(400, {"error": str(error), "field": error.field})
        except OSError as error:
            reply = _json(409, {"error": str(error), "field": None})
        except Exception as error:  # the caller must get an answer, and the simulator must live
            reply = _json(
                500, {"error": f"{request.method} {request.path}: {type(error).__name__}: {error}", "field": None}
            )
        if reply is not None and not exchange.over:
            exchange.send(reply)

    async def _route(self, exchange: Exchange) -> bytes | None:
        request, simulator = exchange.request, self._simulator
        match request.method, request.path.strip("/").split("/"):
            case "GET", ["health"]:
                return _json(200, {"status": "ok"})
            case "GET", ["providers"]:
                return _json(200, {name: self._show(name) for name in simulator.providers})
            case "GET", ["faults"]:
                return _json(200, _catalogue())
            case method, ["replies"]:
                return self._replies(method, request)
            case "DELETE", ["replies", number] if number.isdecimal():
                simulator.replies.remove(int(number))
                return _json(200, simulator.replies.as_json())
            case "GET", ["calls"]:
                self._calls(exchange)
                return None
            case "GET", ["counts"]:
                return await self._counts(_query(request))
            case "POST", ["reset"]:
                await simulator.reset()
                return _json(200, {})
            case "POST", ["token"]:
                return simulator.credentials.google(request)
            case "GET", ["credentials"]:
                return simulator.credentials.aws()
            case method, ["providers", name, *rest]:
                if name not in simulator.providers:
                    known = ", ".join(simulator.providers)
                    return _json(404, {"error": f"no provider {name!r}; there are: {known}", "field": "provider"})
                return await self._provider(method, name, rest, request)
        return _json(404, {"error": f"no such thing: {request.method} {request.path}", "field": None})

    async def _provider(self, method: str, name: str, rest: list[str], request: Request) -> bytes:
        simulator = self._simulator
        provider = simulator.providers[name]
        match method, rest:
            case "GET", []:
                pass
            case "PUT" | "POST", ["fault"]:
                document = _body(request)
                faults = [
                    fault_from(mapping(one, "fault"), provider.wire.forms)
                    for one in (document if isinstance(document, list) else [document])
                ]
                provider.faults.set(faults, asyncio.get_running_loop().time(), add=method == "POST")
            case "DELETE", ["fault"]:
                provider.clear_faults()
            case "PUT", ["limits"]:
                provider.set_limits(limits_from(mapping(_body(request), "limits")))
            case "PUT", ["latency"]:
                provider.latency = latency_from(mapping(_body(request), "latency"))
            case "POST", ["down"]:
                await simulator.down(name)
            case "POST", ["up"]:
                await simulator.up(name)
            case _:
                return _json(404, {"error": f"no such thing: {method} {request.path}", "field": None})
        return _json(200, self._show(name))

    def _replies(self, method: str, request: Request) -> bytes:
        book = self._simulator.replies
        if method in ("PUT", "POST"):
            wires = {name: provider.wire.forms for name, provider in self._simulator.providers.items()}
            book.put(rules_from(_body(request), wires), before=method == "POST")
        elif method == "DELETE":
            book.rules = []
        elif method != "GET":
            return _json(404, {"error": f"no such thing: {method} {request.path}", "field": None})
        return _json(200, book.as_json())

    def _show(self, name: str) -> dict[str, Any]:
        provider, port = self._simulator.providers[name], self._simulator.ports[name]
        log = self._simulator.log
        return {
            "wire": provider.wire.name,
            "port": port.number,
            "url": self._simulator.url(name),
            "up": port.up,
            "connections": len(port.peers),
            "in_flight": provider.in_flight,
            "started": log.count("started", name),
            "finished": log.count("finished", name),
            "completed": provider.completed,
            "client_gone": provider.client_gone,
            "by_status": dict(provider.by_status),
            "by_fault": dict(provider.by_fault),
            "faults": provider.faults.as_json(),
            "limits": provider.limits.as_json(),
            "latency": provider.latency.as_json(),
        }

    def _calls(self, exchange: Exchange) -> None:
        query = _query(exchange.request)
        since = _whole(query, "since", 0)
        running = query.get("running", "") in ("1", "true")
        log = self._simulator.log
        headers = {
            "content-type": "application/x-ndjson",
            "x-next-seq": str(log.next_seq),
            "x-dropped": str(log.dropped),
        }

        def pieces() -> Any:
            yield head(200, headers, length=None)
            for lines in log.read(since, running=running):
                yield chunk(lines)
            yield LAST_CHUNK

        exchange.pump(pieces())

    async def _counts(self, query: Mapping[str, str]) -> bytes:
        log = self._simulator.log
        provider = query.get("provider")
        if provider is not None and provider not in self._simulator.providers:
            raise ControlError(
                "provider", f"no provider {provider!r}; there are: {', '.join(self._simulator.providers)}"
            )
        what = query.get("of", "finished")
        if what not in ("started", "finished"):
            raise ControlError("of", f"must be started or finished, not {what!r}")
        reached = True
        if "wait" in query:
            reached = await log.wait(_whole(query, "wait", 0), provider, what, _seconds(query, "timeout", 10.0))
        each = self._simulator.providers
        return _json(
            200,
            {
                "reached": reached,
                "started": log.count("started", None),
                "finished": log.count("finished", None),
                "completed": sum(p.completed for p in each.values()),
                "client_gone": sum(p.client_gone for p in each.values()),
                "in_flight": sum(p.in_flight for p in each.values()),
                "providers": {
                    name: {
                        "started": log.count("started", name),
                        "finished": log.count("finished", name),
                        "completed": p.completed,
                        "client_gone": p.client_gone,
                        "in_flight": p.in_flight,
                        "by_status": dict(p.by_status),
                        "by_fault": dict(p.by_fault),
                    }
                    for name, p in each.items()
                },
                "credentials": dict(self._simulator.credentials.asked),
                "log": log.as_json(),
            },
        )


def _json(status: int, document: object) -> bytes:
    return response(status, JSON, orjson.dumps(document))


def _body(request: Request) -> Any:
    if request.too_large:
        raise ControlError("", "the body is too large")
    try:
        return orjson.loads(request.body or b"{}")
    except orjson.JSONDecodeError as error:
        raise ControlError("", f"the body is not valid JSON: {error}") from None


def _query(request: Request) -> dict[str, str]:
    return dict(parse_qsl(request.query, keep_blank_values=True))


def _whole(query: Mapping[str, str], field: str, default: int) -> int:
    value = query.get(field)
    if value is None:
        return default
    if not value.isdecimal():
        raise ControlError(field, f"must be a whole number of at least 0, not {value!r}")
    return int(value)


def _seconds(query: Mapping[str, str], field: str, default: float) -> float:
    try:
        value = float(query.get(field, default))
    except ValueError:
        value = -1.0
    if not 0 <= value <= MAX_WAIT_S:
        raise ControlError(field, f"must be seconds between 0 and {MAX_WAIT_S:g}, not {query.get(field)!r}")
    return value


def _catalogue() -> dict[str, Any]:
    wires = ("anthropic", "bedrock", "vertex")
    table = {
        name: {
            "about": row.about,
            **{wire: f"{reply.status} {reply.kind}" for wire in wires if (reply := row.on(wire)) is not None},
        }
        for name, row in REPLIES.items()
    }
    return {**table, **{name: {"about": about} for name, about in BEHAVIOURS.items()}}
