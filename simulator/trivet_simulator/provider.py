"""One simulated provider: takes a request, decides what becomes of it, and writes it down."""

from __future__ import annotations

import asyncio
import fnmatch
import hashlib
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from trivet_simulator.answers import Answer, Model, Usage, input_tokens
from trivet_simulator.calls import Call, CallLog
from trivet_simulator.catalogue import BEHAVIOURS, REPLIES, STOP_REASONS, UNFINISHED, Reply
from trivet_simulator.checks import ControlError
from trivet_simulator.counts import Counter as TokenCounter
from trivet_simulator.counts import document_of
from trivet_simulator.faults import FaultBook, Hit, hit_of, retry_headers
from trivet_simulator.http import Ending, Exchange, Outcome, Request, Script, response
from trivet_simulator.latency import Latency
from trivet_simulator.limits import Limits, Need, Refusal, Rule, Ticket
from trivet_simulator.options import ProviderOptions, SimulatorOptions
from trivet_simulator.pages import PAGES
from trivet_simulator.poison import FLOODS, SPOILED_USAGE, flood
from trivet_simulator.scripted import CallbackFailed, ReplyBook, ReplyRule, apply, ask_callback, check_reply
from trivet_simulator.scripts import json_script, stream_script
from trivet_simulator.wires import WIRES
from trivet_simulator.wires.wire import Wire, letters, problem_with

HELD_S = 86_400.0
"""Seconds that a held call waits for the fault to be cleared."""


class Provider:
    """State and behaviour of one provider. `handle` is called once per request, on the event loop."""

    def __init__(self, options: ProviderOptions, simulator: SimulatorOptions, log: CallLog, replies: ReplyBook) -> None:
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
        self.replies = replies
        self._asking: set[asyncio.Task[None]] = set()
        self.faults = FaultBook(self.wire.forms, random.Random(f"{simulator.seed}/{options.name}/faults"))
        self._counter = TokenCounter(self.wire, simulator.models, self.faults)
        self.in_flight = 0
        self.aborting = "down"
        """Reason for which the server breaks calls off, when it does."""
        self._number = 0
        self._salt = os.urandom(16)
        self.by_status: Counter[str] = Counter()
        self.by_fault: Counter[str] = Counter()
        self.completed = 0
        self.client_gone = 0
        self._held: set[Exchange] = set()

    def set_limits(self, rules: tuple[Rule, ...]) -> None:
        """New limits, counted from now."""
        self.limits = Limits(self.wire.forms, rules)

    def clear_faults(self) -> None:
        """Take every fault back, and answer the calls that a `held` one holds."""
        self.faults.clear()
        for exchange in tuple(self._held):
            exchange.hasten()

    def reset(self) -> None:
        """As started: no faults, no limits, first latency, no counts."""
        self.clear_faults()
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
            if not self._counter.takes(exchange, self._loop.time()):
                exchange.send(self.wire.page(request).raw())
            return
        document, problem = document_of(request)
        model = route.model or document.get("model")
        model = model if isinstance(model, str) else ""
        stream = bool(document.get("stream")) if route.stream is None else route.stream
        self._number += 1
        call = Call(self.name, model, request.header(b"x-trivet-attempt"), time.time(), stream)
        call.request_id = self.wire.request_id(self._token(b"request"))
        self._log.begin(call)
        self.in_flight += 1

        now = self._loop.time()
        hit = self.faults.pick(model, document, now)
        if hit is not None:
            call.fault = hit.fault.kind
            if self._fails(exchange, call, hit):
                return
        reply = self._objection(request, document, problem, model)
        if reply is not None:
            self._refuse(exchange, call, reply)
            return
        need = Need(input_tokens(request.body), document["max_tokens"])
        ticket = self.limits.admit(now, model, need)
        if isinstance(ticket, Refusal):
            call.fault = "limit"
            self._refuse(exchange, call, self.wire.limited(ticket, model), limits=True)
            return
        rule = self.replies.pick(self.name, model, document)
        if rule is None:
            self._answer(exchange, call, document, hit, ticket)
        elif rule.callback is None:
            self._reply(exchange, call, document, hit, ticket, rule.reply)
        else:
            exchange.hold(self._over(exchange, call, ticket))
            asking = self._loop.create_task(self._ask(exchange, call, document, hit, ticket, rule))
            self._asking.add(asking)
            asking.add_done_callback(self._asking.discard)

    async def _ask(
        self,
        exchange: Exchange,
        call: Call,
        document: dict[str, Any],
        hit: Hit | None,
        ticket: Ticket,
        rule: ReplyRule,
    ) -> None:
        """Ask the callback of a rule and answer as it says; a call that has ended meanwhile is left alone."""
        assert rule.callback is not None
        asked = {
            "provider": self.name,
            "model": plain_model(self.wire, call.model),
            "attempt": call.attempt,
            "request": document,
        }
        failed, reply = None, None
        try:
            reply = await asyncio.to_thread(ask_callback, rule.callback, asked, rule.timeout_s)
            if reply is not None:
                check_reply(reply, self.wire.name)
        except (CallbackFailed, ControlError) as error:
            failed = f"{error}"
        if exchange.over:
            return
        if failed is not None:
            call.fault = "reply_failed"
            self.limits.settle(self._loop.time(), ticket, 0)
            self._refuse(exchange, call, self.wire.invalid(f"simulator: {failed}"))
        else:
            self._reply(exchange, call, document, hit, ticket, reply)

    def _reply(
        self,
        exchange: Exchange,
        call: Call,
        document: dict[str, Any],
        hit: Hit | None,
        ticket: Ticket,
        reply: object,
    ) -> None:
        """Answer with a reply that has been checked: an error, or what goes over the model's own answer."""
        error = None if reply is None else check_reply(reply, self.wire.name)
        if error is None:
            self._answer(exchange, call, document, hit, ticket, reply)
            return
        hit = hit_of(error, self.wire.name)
        call.fault = error.kind
        if error.kind in BEHAVIOURS and not self._is_final(error.kind):
            self._answer(exchange, call, document, hit, ticket)
            return
        self.limits.settle(self._loop.time(), ticket, 0)
        self._fails(exchange, call, hit)

    @staticmethod
    def _is_final(kind: str) -> bool:
        """Return whether a behaviour needs no answer of the model."""
        return kind in PAGES or kind in FLOODS or kind in ("raw", "hang", "reset")

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
        elif fault.kind in PAGES:
            page = PAGES[fault.kind]
            call.status = fault.status or page.status
            raw = page.raw(fault.body, {**hit.headers, **fault.headers}, fault.status)
            self._play(exchange, call, Script([(fault.delay_s, raw)]))
        elif fault.kind in FLOODS:
            call.status = fault.status or FLOODS[fault.kind]
            headers = {
                self.wire.request_id_header: call.request_id,
                "content-type": self.wire.json_type,
                **fault.headers,
            }
            exchange.pump(flood(fault.kind, call.status, headers, fault.megabytes), self._over(exchange, call))
        elif fault.kind == "hang":
            self._play(exchange, call, Script([], Ending.HANG))
        elif fault.kind == "reset":
            self._play(exchange, call, Script([(fault.delay_s, b"")], Ending.RESET))
        else:
            return False
        return True

    def _objection(self, request: Request, document: dict[str, Any], problem: str | None, model: str) -> Reply | None:
        """Return the fault of the request, in the order in which a provider would look."""
        denied = self.wire.no_credentials(request)
        if denied is not None:
            return denied
        if request.too_large:
            return REPLIES["request_too_large"].on(self.wire.forms)
        if problem is not None:
            return self.wire.invalid(problem)
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
        self,
        exchange: Exchange,
        call: Call,
        document: dict[str, Any],
        hit: Hit | None,
        ticket: Ticket,
        reply: object = None,
    ) -> None:
        """Answer with a message, as a reply says and shaped by a fault, where there are any."""
        answer = self._model.answer(
            exchange.request.body,
            document,
            call.model,
            document["max_tokens"],
            self.wire.id_prefix + letters(self._token(b"message")),
        )
        self.wire.dress(answer)
        if reply is not None:
            apply(reply, answer)
        paced_s = self.latency.per_output_token_s * answer.usage.output_tokens
        latency_s = self.latency.draw(self._rng, answer.usage.output_tokens)
        kind = None
        if hit is not None:
            kind = hit.fault.kind
            latency_s = _shape(answer, hit, latency_s)
            paced_s *= hit.fault.factor if kind == "latency" else 1.0
        self._model.keep(answer, latency_s)
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

        if call.stream:
            script = stream_script(self.wire, answer, headers, latency_s, paced_s, hit.fault if hit else None)
        else:
            script = json_script(answer, headers, latency_s, kind, 0.0 if hit is None else hit.fault.seconds)
        if kind == "held":
            self._held.add(exchange)
        self._play(exchange, call, script, ticket)

    def _play(self, exchange: Exchange, call: Call, script: Script, ticket: Ticket | None = None) -> None:
        exchange.play(script, self._over(exchange, call, ticket))

    def _over(self, exchange: Exchange, call: Call, ticket: Ticket | None = None) -> Callable[[Outcome], None]:
        """Return what is to be told how the call ended."""
        limits = self.limits

        def over(outcome: Outcome) -> None:
            self._held.discard(exchange)
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

        return over


def plain_model(wire: Wire, model: str) -> str:
    """The model's name as an answer of this wire gives it."""
    answer = Answer("", model, [], None, Usage(0))
    wire.dress(answer)
    return answer.model


def _shape(answer: Answer, hit: Hit, latency_s: float) -> float:
    """Change the answer as the fault says; returns the latency."""
    kind = hit.fault.kind
    if kind in STOP_REASONS:
        answer.stop_reason = STOP_REASONS[kind]
    if kind == "refusal":
        answer.blocks, answer.extra_usage = [], {}
        answer.usage.output_tokens = 0
        answer.stop_details = {"type": "refusal", "category": hit.fault.category, "explanation": None}
    elif kind in SPOILED_USAGE:
        answer.spoiled_usage = kind, hit.fault.tokens
    elif kind == "no_stop_reason":
        answer.stop_reason = None
    elif kind == "slow_first_byte":
        latency_s += hit.fault.seconds
    elif kind == "held":
        latency_s = HELD_S
    elif kind == "latency":
        latency_s *= hit.fault.factor
    return latency_s
