"""One simulated provider: takes a request, decides what becomes of it, and writes it down."""

from __future__ import annotations

import asyncio
import fnmatch
import hashlib
import os
import random
import time
from collections import Counter
from typing import Any

import orjson

from trivet_simulator.answers import Answer, Model, input_tokens
from trivet_simulator.calls import Call, CallLog
from trivet_simulator.catalogue import REPLIES, STOP_REASONS, UNFINISHED, Reply
from trivet_simulator.faults import FaultBook, Hit, retry_headers
from trivet_simulator.http import Ending, Exchange, Outcome, Request, Script, response
from trivet_simulator.latency import Latency
from trivet_simulator.limits import Limits, Need, Refusal, Rule, Ticket
from trivet_simulator.options import ProviderOptions, SimulatorOptions
from trivet_simulator.scripts import json_script, stream_script
from trivet_simulator.wires import WIRES
from trivet_simulator.wires.wire import letters, problem_with


class Provider:
    """State and behaviour of one provider. `handle` is called once per request, on the event loop."""

    def __init__(self, options: ProviderOptions, simulator: SimulatorOptions, log: CallLog) -> None:
        self.name = options.name
        self.wire = WIRES[options.wire]()
        self._log = log
        self._models = simulator.models
        self._first_latency = options.latency or simulator.latency
        self._rng = random.Random(f"{simulator.seed}/{options.name}/latency")
        self._loop = asyncio.get_running_loop()
        self._model = Model(simulator.seed, simulator.output_median)
        self.latency: Latency = self._first_latency
        self.limits = Limits(self.wire.forms)
        self.faults = FaultBook(self.wire.forms, random.Random(f"{simulator.seed}/{options.name}/faults"))
        self.in_flight = 0
        self.aborting = "down"
        """Why the server breaks calls off, when it does."""
        self._number = 0
        self._salt = os.urandom(16)
        self.by_status: Counter[str] = Counter()
        self.by_fault: Counter[str] = Counter()
        self.completed = 0
        self.client_gone = 0

    def set_limits(self, rules: tuple[Rule, ...]) -> None:
        """New limits, counted from now."""
        self.limits = Limits(self.wire.forms, rules)

    def reset(self) -> None:
        """As started: no faults, no limits, first latency, no counts."""
        self.faults.clear()
        self.limits = Limits(self.wire.forms)
        self.latency = self._first_latency
        self._model.forget()
        self.by_status.clear()
        self.by_fault.clear()
        self.completed = self.client_gone = 0

    def handle(self, exchange: Exchange) -> None:
        """Answer one request."""
        request = exchange.request
        route = self.wire.route(request)
        if route is None:
            exchange.send(self.wire.page(request).raw())
            return
        document, trouble = _document(request)
        model = route.model or document.get("model")
        model = model if isinstance(model, str) else ""
        stream = bool(document.get("stream")) if route.stream is None else route.stream
        self._number += 1
        call = Call(self.name, model, request.header(b"x-trivet-attempt"), time.time(), stream)
        call.request_id = self.wire.request_id(self._token(b"request"))
        self._log.begin(call)
        self.in_flight += 1

        now = self._loop.time()
        hit = self.faults.pick(model, now)
        if hit is not None:
            call.fault = hit.fault.kind
            if self._fails(exchange, call, hit):
                return
        reply = self._objection(request, document, trouble, model)
        if reply is not None:
            self._refuse(exchange, call, reply)
            return
        need = Need(input_tokens(request.body), document["max_tokens"])
        ticket = self.limits.admit(now, model, need)
        if isinstance(ticket, Refusal):
            call.fault = "limit"
            self._refuse(exchange, call, self.wire.limited(ticket, model), limits=True)
            return
        self._answer(exchange, call, document, hit, ticket)

    def _token(self, what: bytes) -> bytes:
        """16 bytes for the current call that no other call or run has."""
        return hashlib.blake2b(self._number.to_bytes(8, "big"), digest_size=16, key=self._salt, person=what).digest()

    def _fails(self, exchange: Exchange, call: Call, hit: Hit) -> bool:
        """Play a fault that needs no answer from the model; False when there is to be one."""
        fault = hit.fault
        if hit.reply is not None:
            self._refuse(exchange, call, hit.reply, delay_s=fault.delay_s, headers=hit.headers)
        elif fault.kind == "raw":
            assert fault.status is not None
            call.status = fault.status
            headers = {
                self.wire.request_id_header: call.request_id,
                "content-type": "application/json",
                **fault.headers,
            }
            self._play(exchange, call, Script([(fault.delay_s, response(fault.status, headers, fault.body.encode()))]))
        elif fault.kind == "hang":
            self._play(exchange, call, Script([], Ending.HANG))
        elif fault.kind == "reset":
            self._play(exchange, call, Script([(fault.delay_s, b"")], Ending.RESET))
        else:
            return False
        return True

    def _objection(self, request: Request, document: dict[str, Any], trouble: str | None, model: str) -> Reply | None:
        """What is wrong with the request, in the order a provider would look."""
        denied = self.wire.no_credentials(request)
        if denied is not None:
            return denied
        if request.too_large:
            return REPLIES["request_too_large"].on(self.wire.forms)
        if trouble is not None:
            return self.wire.invalid(trouble)
        if not model:
            return self.wire.invalid("model: Field required")
        if not any(fnmatch.fnmatchcase(model, glob) for glob in self._models):
            return REPLIES["model_missing"].on(self.wire.forms)
        unknown = self.wire.unknown_model(model)
        if unknown is not None:
            return unknown
        version = self.wire.version(request, document)
        if isinstance(version, Reply):
            return version
        problem = problem_with(document, version)
        return None if problem is None else self.wire.invalid(problem)

    def _refuse(
        self,
        exchange: Exchange,
        call: Call,
        reply: Reply,
        *,
        delay_s: float = 0.0,
        headers: dict[str, str] | None = None,
        limits: bool = False,
    ) -> None:
        """Answer with an error."""
        if headers is None:
            headers = retry_headers(reply.retry_after_s, "seconds")
        if limits:
            headers = {**self.wire.limit_headers(self.limits.left(self._loop.time(), call.model)), **headers}
        failure = self.wire.failure(reply, call.model, call.request_id, headers)
        call.status = failure.status
        self._play(exchange, call, Script([(delay_s, failure.raw())]))

    def _answer(
        self, exchange: Exchange, call: Call, document: dict[str, Any], hit: Hit | None, ticket: Ticket
    ) -> None:
        """Answer with a message, shaped by a fault if one hit."""
        answer = self._model.answer(
            exchange.request.body,
            document,
            call.model,
            document["max_tokens"],
            self.wire.id_prefix + letters(self._token(b"message")),
        )
        latency_s = self.latency.draw(self._rng, answer.usage.output_tokens)
        kind = None
        if hit is not None:
            kind = hit.fault.kind
            latency_s = _shape(answer, hit, latency_s)
        self._model.keep(answer, latency_s)
        self.wire.dress(answer)
        usage = answer.usage
        call.usage = {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "cache_creation_input_tokens": usage.cache_write_5m + usage.cache_write_1h,
            "cache_read_input_tokens": usage.cache_read,
        }
        limits, model = self.limits, call.model

        def headers() -> dict[str, str]:
            """At the moment they are sent: the call that does not stream is settled by then."""
            now = self._loop.time()
            if not call.stream:
                limits.settle(now, ticket, usage.output_tokens)
            call.status = 200
            return {
                "content-type": self.wire.stream_type if call.stream else self.wire.json_type,
                self.wire.request_id_header: call.request_id,
                **({} if call.stream else self.wire.usage_headers(usage, latency_s)),
                **self.wire.limit_headers(limits.left(now, model)),
            }

        seconds = 0.0 if hit is None else hit.fault.seconds
        if call.stream:
            script = stream_script(self.wire, answer, headers, latency_s, kind, seconds)
        else:
            script = json_script(answer, headers, latency_s, kind, seconds)
        self._play(exchange, call, script, ticket)

    def _play(self, exchange: Exchange, call: Call, script: Script, ticket: Ticket | None = None) -> None:
        limits = self.limits

        def over(outcome: Outcome) -> None:
            self.in_flight -= 1
            call.finished = time.time()
            if ticket is not None:
                limits.settle(self._loop.time(), ticket, call.usage["output_tokens"] if call.usage else 0)
            if outcome is Outcome.CLIENT_GONE:
                call.client_gone = True
                self.client_gone += 1
            elif outcome is Outcome.ABORTED:
                call.fault = self.aborting
            elif call.status == 200 and call.fault not in UNFINISHED and call.usage is not None:
                call.complete = True
                self.completed += 1
            self.by_status["none" if call.status is None else str(call.status)] += 1
            if call.fault is not None:
                self.by_fault[call.fault] += 1
            self._log.end(call)

        exchange.play(script, over)


def _document(request: Request) -> tuple[dict[str, Any], str | None]:
    """The body as a JSON object, or an empty one and what is wrong with it."""
    if request.too_large:
        return {}, None
    try:
        document = orjson.loads(request.body)
    except orjson.JSONDecodeError:
        return {}, "The request body is not valid JSON"
    return (document, None) if isinstance(document, dict) else ({}, "The request body must be a JSON object")


def _shape(answer: Answer, hit: Hit, latency_s: float) -> float:
    """Change the answer as the fault says; returns the latency."""
    kind = hit.fault.kind
    if kind in STOP_REASONS:
        answer.stop_reason = STOP_REASONS[kind]
    if kind == "refusal":
        answer.text = ""
        answer.usage.output_tokens = 4
        answer.stop_details = {"type": "refusal", "category": "general_harms", "explanation": None}
    elif kind == "no_stop_reason":
        answer.stop_reason = None
    elif kind == "slow_first_byte":
        latency_s += hit.fault.seconds
    elif kind == "latency":
        latency_s *= hit.fault.factor
    return latency_s
