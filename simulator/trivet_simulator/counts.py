"""Answers to requests for a token count. They are free, no calls, and are not in the log; faults hit them all the same."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Sequence
from typing import Any

import orjson

from trivet_simulator.answers import input_tokens
from trivet_simulator.catalogue import REPLIES, Reply
from trivet_simulator.faults import FaultBook, Hit
from trivet_simulator.http import Ending, Exchange, Outcome, Request, Script, response
from trivet_simulator.pages import PAGES
from trivet_simulator.wires.wire import Route, Wire, problem_with

COUNT_S = 0.02
"""Seconds that a count takes."""


class Counter:
    """Counts the tokens of requests on one wire."""

    def __init__(self, wire: Wire, models: Sequence[str], faults: FaultBook) -> None:
        self._wire = wire
        self._models = models
        self._faults = faults

    def takes(self, exchange: Exchange, now: float) -> bool:
        """Answer a request if it is one for a count; False: it is not."""
        request = exchange.request
        route = self._wire.counting.route(request)
        if route is None:
            return False
        document, problem = document_of(request)
        model = str(route.model or document.get("model") or "")
        request_id = self._wire.request_id(os.urandom(16))
        hit = self._faults.pick(model, document, now)
        exchange.play(self._script(request, document, problem, route, model, hit, request_id), _nobody)
        return True

    def _script(
        self,
        request: Request,
        document: dict[str, Any],
        problem: str | None,
        route: Route,
        model: str,
        hit: Hit | None,
        request_id: str,
    ) -> Script:
        delay_s = COUNT_S
        if hit is not None:
            fault = hit.fault
            delay_s += fault.delay_s
            if hit.reply is not None:
                return self._failed(hit.reply, model, request_id, delay_s, hit.headers)
            if fault.kind == "hang":
                return Script([], Ending.HANG)
            if fault.kind == "reset":
                return Script([(fault.delay_s, b"")], Ending.RESET)
            if fault.kind in PAGES:
                page = PAGES[fault.kind]
                return Script([(delay_s, page.raw(fault.body, {**hit.headers, **fault.headers}, fault.status))])
            delay_s += fault.seconds if fault.kind == "slow_first_byte" else 0.0
        reply = self._objection(request, document, problem, route, model)
        if isinstance(reply, Reply):
            return self._failed(reply, model, request_id, delay_s, {})
        headers = {"content-type": self._wire.json_type, self._wire.request_id_header: request_id}
        return Script(
            [(delay_s, response(200, headers, self._wire.counting.answer(input_tokens(orjson.dumps(reply)))))]
        )

    def _objection(
        self, request: Request, document: dict[str, Any], problem: str | None, route: Route, model: str
    ) -> Reply | dict[str, Any]:
        """Return the fault of the request in the order in which a provider would look, or what is to be counted."""
        wire = self._wire
        if denied := wire.no_credentials(request):
            return denied
        if request.too_large:
            return REPLIES["request_too_large"].on(wire.forms) or wire.invalid("too large")
        if problem is not None or not model:
            return wire.invalid(problem or "model: Field required")
        if not any(fnmatch.fnmatchcase(model, glob) for glob in self._models):
            return REPLIES["model_missing"].on(wire.forms) or wire.invalid("model: not known")
        if route.model is None and (unknown := wire.unknown_model(model)):
            return unknown
        asked = wire.counting.asked(document, model)
        if isinstance(asked, str):
            return wire.invalid(asked)
        version = "" if wire.name == "messages" else wire.version(request, asked)
        if isinstance(version, Reply):
            return version
        wrong = problem_with(asked, version)
        return asked if wrong is None else wire.invalid(wrong)

    def _failed(self, reply: Reply, model: str, request_id: str, delay_s: float, headers: dict[str, str]) -> Script:
        return Script([(delay_s, self._wire.failure(reply, model, request_id, headers).raw())])


def _nobody(_: Outcome) -> None:
    """Tell nobody how it ended."""


def document_of(request: Request) -> tuple[dict[str, Any], str | None]:
    """Return the body as a JSON object, or an empty one and what is wrong with it."""
    if request.too_large:
        return {}, None
    try:
        document = orjson.loads(request.body)
    except orjson.JSONDecodeError:
        return {}, "The request body is not valid JSON"
    return (document, None) if isinstance(document, dict) else ({}, "The request body must be a JSON object")
