"""A result as one line of JSON: what `--json` prints and what results files hold."""

from typing import Any

import orjson

from trivet.client.result import Result


def result_line(result: Result) -> bytes:
    """One line, with its line end. Amounts are strings, so that no digit is lost; `message` is as the provider sent it."""
    value: dict[str, Any] = {
        "id": result.id,
        "key": result.key,
        "status": result.status,
        "pruned": result.pruned,
        "error": None if result.error is None else {"outcome": result.error.outcome, "message": result.error.message},
        "text": result.text if result.succeeded else None,
        "stop_reason": result.stop_reason,
        "usage": result.usage if result.succeeded else None,
        "cost_usd": None if result.cost_usd is None else format(result.cost_usd, "f"),
        "route": result.route,
        "provider": result.provider,
        "model": result.model,
        "model_used": result.model_used,
        "attempts": [
            {
                "id": attempt.id,
                "route": attempt.route,
                "outcome": attempt.outcome,
                "started_at": attempt.started_at,
                "latency_s": attempt.latency_s,
                "cost_usd": None if attempt.cost_usd is None else format(attempt.cost_usd, "f"),
                "estimated": attempt.estimated,
                "request_id": attempt.request_id,
                "model_used": attempt.model_used,
            }
            for attempt in result.attempts
        ],
        "cached": result.cached,
        "latency_s": result.latency_s,
        "created_at": result.created_at,
        "ended_at": result.ended_at,
        "tags": result.tags,
        "message": None if result.raw is None else _one_line(result.raw),
    }
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)


def _one_line(message: bytes) -> Any:
    """The provider's answer as it came, unless a gateway has broken it into lines."""
    return orjson.loads(message) if b"\n" in message or b"\r" in message else orjson.Fragment(message)
