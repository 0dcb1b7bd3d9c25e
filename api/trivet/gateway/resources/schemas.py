"""Shapes of answers for the OpenAPI document: from the types of `trivet.admin` where JSON has their fields, else by hand."""

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, TypeAlias

from pydantic import TypeAdapter

from trivet.admin import (
    AttemptRow,
    BlockedReason,
    BudgetStatus,
    CacheSaving,
    Impairment,
    JobRow,
    ProbeResult,
    Progress,
    RetryRow,
)
from trivet.json_objects import COST_FIGURES
from trivet_tasks.states import JobState

Schema: TypeAlias = dict[str, Any]

_EXAMPLE: Schema = {
    "model": "claude-haiku-4-5",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "Summarise: …"}],
    "tags": {"team": "search"},
    "deadline": "2h",
}
REFERENCE = "#/components/schemas/{model}"
STRING: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
BOOLEAN: Schema = {"type": "boolean"}
ANY_OBJECT: Schema = {"type": "object"}
USD: Schema = {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]+)?$", "description": "USD, exact."}
EPOCH: Schema = {"type": "number", "description": "Seconds since the epoch."}
STRINGS: Schema = {"type": "array", "items": STRING}
_TYPES = {
    "Attempt": AttemptRow,
    "BlockedReason": BlockedReason,
    "Budget": BudgetStatus,
    "CacheSaving": CacheSaving,
    "Impairment": Impairment,
    "Job": JobRow,
    "ProbedRoute": ProbeResult,
    "Batch": Progress,
    "Retry": RetryRow,
}
"""Components by the dataclasses whose fields they have."""


def ref(name: str) -> Schema:
    """Return a reference to a component."""
    return {"$ref": REFERENCE.format(model=name)}


def many(item: Schema) -> Schema:
    """Return a list of these."""
    return {"type": "array", "items": item}


def nullable(schema: Schema) -> Schema:
    """Return the same, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def fields(description: str = "", /, **properties: Schema) -> Schema:
    """Return an object that has all of these."""
    found: Schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"description": description, **found} if description else found


def with_fields(name: str, description: str, /, **properties: Schema) -> Schema:
    """Return a component with further properties."""
    return {"description": description, "allOf": [ref(name), fields(**properties)]}


def answer_schemas() -> dict[str, Schema]:
    """Return the components of all answers of Trivet's own resources, by name."""
    found = _of_types()
    job = found["Job"]
    for name in ("message",):  # the result has it
        del job["properties"][name]
        job["required"].remove(name)
    submitted = "A job that was accepted, or found under its key. Always with `id` and `warnings`."
    properties = {**job["properties"], "warnings": STRINGS}
    found["SubmittedJob"] = {**fields(submitted, **properties), "required": ["id", "warnings"]}
    ends_at = {"window_ends_at": nullable({"type": "string", "format": "date-time"})}
    found["Budget"]["properties"] |= ends_at
    found["Batch"]["properties"] |= {
        "ended": {**INTEGER, "description": "Jobs in an end state."},
        "joined": {**INTEGER, "description": "Requests that got no job of their own."},
        "done": {**BOOLEAN, "description": "True when everything was taken in and every job has ended."},
    }
    found["Batch"]["required"] += ["ended", "joined", "done"]
    return {**found, **_jobs(), **_batches(), **_routes(), **_costs(), **_status(), "Error": _error()}


def _of_types() -> dict[str, Schema]:
    """Return the components of dataclasses, and of the types of their fields."""
    found: dict[str, Schema] = {}
    for name, kind in _TYPES.items():
        assert is_dataclass(kind)
        schema = TypeAdapter(kind).json_schema(mode="serialization", ref_template=REFERENCE)
        found |= schema.pop("$defs", {})
        found[name] = schema
    for schema in found.values():
        if schema.get("type") == "object":
            schema["required"] = list(schema["properties"])
            for one in schema["properties"].values():
                one.pop("default", None)
        _tidy(schema)
    return found


def _tidy(schema: Any) -> None:
    """Remove titles, which repeat the names, and replace the form of an amount."""
    if isinstance(schema, list):
        for one in schema:
            _tidy(one)
    if not isinstance(schema, dict):
        return
    if isinstance(schema.get("title"), str):
        del schema["title"]
    if schema.get("type") == "string" and "pattern" in schema:
        schema["pattern"] = USD["pattern"]
    for one in schema.values():
        _tidy(one)


def _jobs() -> dict[str, Schema]:
    attempt = fields(
        id=STRING,
        route=STRING,
        outcome=nullable(STRING),
        started_at=EPOCH,
        latency_s=nullable(NUMBER),
        cost_usd=nullable(USD),
        estimated=BOOLEAN,
        request_id=nullable(STRING),
        model_used=nullable(STRING),
    )
    result = fields(
        "The result of a job that has ended. A failure is a result, too.",
        id=STRING,
        batch=nullable(STRING),
        index=nullable(INTEGER),
        key=nullable(STRING),
        status={"type": "string", "enum": ["succeeded", "failed", "expired", "cancelled"]},
        pruned=BOOLEAN,
        error=nullable(fields(outcome=nullable(STRING), message=STRING)),
        text=nullable(STRING),
        stop_reason=nullable(STRING),
        usage=nullable(ANY_OBJECT),
        cost_usd=nullable(USD),
        estimated_usd=USD,
        route=nullable(STRING),
        provider=nullable(STRING),
        model=STRING,
        model_used=STRING,
        attempts=many(attempt),
        cached=BOOLEAN,
        latency_s=NUMBER,
        created_at=EPOCH,
        ended_at=EPOCH,
        tags={"type": "object", "additionalProperties": STRING},
        metadata=ANY_OBJECT,
        message={**nullable(ANY_OBJECT), "description": "The message of the Messages API, as the provider sent it."},
    )
    life = with_fields(
        "Job",
        "A job with its attempts and its earlier ends.",
        attempts=many(ref("Attempt")),
        retries=many(ref("Retry")),
        blocked={**STRINGS, "description": "Sentences on why it does not move."},
    )
    state = {"type": "string", "enum": [state.value for state in JobState]}
    return {
        "Result": result,
        "JobLife": life,
        "CancelledJob": fields(id=STRING, cancelled=BOOLEAN, state=state),
        "RetriedJob": fields(id=STRING, retried=BOOLEAN, state=state),
        "JobRequest": {
            "description": "A request of the Messages API, with Trivet's own fields.",
            "type": "object",
            "required": ["model", "max_tokens", "messages"],
            "properties": {
                "model": {**STRING, "description": "First-party id, e.g. claude-sonnet-5-5."},
                "max_tokens": {"type": "integer", "minimum": 1},
                "messages": many(ANY_OBJECT) | {"minItems": 1},
                "system": {"anyOf": [STRING, many(ANY_OBJECT)]},
                "key": {**STRING, "maxLength": 250, "description": "Idempotency key; in a batch the name of the line."},
                "latency": {"enum": ["realtime", "interactive", "batch", "async", "deferred"]},
                "deadline": {
                    "anyOf": [STRING, NUMBER],
                    "description": "5m, seconds from now, or a moment in ISO 8601.",
                },
                "not_before": {"anyOf": [STRING, NUMBER], "description": "As `deadline`."},
                "tags": {"type": "object", "additionalProperties": STRING},
                "tenant": STRING,
                "residency": STRINGS,
                "compliance": STRINGS,
                "cache": BOOLEAN,
                "metadata": ANY_OBJECT,
            },
            "additionalProperties": True,
            "examples": [_EXAMPLE],
        },
    }


def _batches() -> dict[str, Schema]:
    control = fields("A change of a pause or a priority.", kind=STRING, value=STRING, changed=BOOLEAN)
    control["properties"] |= {"paused": BOOLEAN, "priority": INTEGER}
    changed = {"allOf": [ref("Batch")], "properties": {"ended_now": INTEGER, "retried": INTEGER}}
    return {
        "NewBatch": with_fields("Batch", "A batch whose requests were taken in.", warnings=STRINGS),
        "BatchStatus": with_fields(
            "Batch",
            "A batch at one moment.",
            jobs_per_s=nullable(NUMBER),
            left_s=nullable(NUMBER),
            note=nullable(STRING),
            reasons=STRINGS,
            held_up=BOOLEAN,
            impairments=many(ref("Impairment")),
        ),
        "ChangedBatch": {"description": "A batch, with the number of jobs that were ended or run again.", **changed},
        "ControlChange": control,
        "DiscardedBatch": fields(name=STRING, jobs=INTEGER),
    }


def _routes() -> dict[str, Schema]:
    headroom = {name: nullable(NUMBER) for name in ("requests", "input_tokens", "output_tokens")}
    model = fields(
        "A model on a route. Durations are seconds.",
        model=STRING,
        state=STRING,
        shown_as=STRING,
        cause=STRING,
        since=nullable(EPOCH),
        wait_s=NUMBER,
        share=NUMBER,
        calls_in_flight=INTEGER,
        places=nullable(INTEGER),
        headroom=fields(**headroom),
        frees_per_minute=fields(**headroom),
        limits=ANY_OBJECT,
        window=fields(calls=INTEGER, failed=INTEGER),
        latency=ANY_OBJECT,
    )
    return {
        "RouteModel": model,
        "Route": fields(
            "A route. An admin key gets more: queue, workers, spending, overrides.",
            route=STRING,
            provider=STRING,
            region=nullable(STRING),
            drained=BOOLEAN,
            known=BOOLEAN,
            models=many(ref("RouteModel")),
        ),
        "Routes": fields("All routes. An admin key gets more.", routes=many(ref("Route")), now=EPOCH),
        "DrainedRoute": fields(route=STRING, drained=BOOLEAN, was_drained=BOOLEAN, queued=INTEGER, running=INTEGER),
        "RestoredRoute": fields(route=STRING, drained=BOOLEAN, was_drained=BOOLEAN),
        "RaisedBudget": fields(budget=STRING, window=STRING, limit_usd=USD, was_usd=USD),
        "Budgets": fields(budgets=many(ref("Budget")), now={"type": "string", "format": "date-time"}),
    }


def _costs() -> dict[str, Schema]:
    figures: Mapping[str, Schema] = {name: USD if name.endswith("_usd") else INTEGER for name in COST_FIGURES}
    moment: Schema = {"type": "string", "format": "date-time"}
    return {
        "CostFigures": fields("Figures of some calls.", **figures),
        "Costs": fields(
            "Costs of the calls that began in a span.",
            since=moment,
            until=moment,
            by=STRINGS,
            rows={**many(ref("CostFigures")), "description": "A row has one more field for each name of `by`."},
            total=ref("CostFigures"),
            unpriced=many(fields(provider=STRING, model=STRING, wire_model=STRING, calls=INTEGER)),
            prompt_cache=many(ref("CacheSaving")),
            response_cache=many(fields(hits=INTEGER, saved_usd=USD, unpriced=INTEGER)),
        ),
    }


def _status() -> dict[str, Schema]:
    key = fields(
        "The key of the request.",
        name=STRING,
        admin=BOOLEAN,
        tenant=nullable(STRING),
        classes=STRINGS,
        models=STRINGS,
        residency=STRINGS,
        compliance=STRINGS,
        budget=nullable(STRING),
        requests_per_minute=nullable(INTEGER),
    )
    return {
        "Status": fields(
            version=STRING,
            now=EPOCH,
            held_up={**BOOLEAN, "description": "True if work is held up by something that is wrong."},
            key=key,
            impairments={**many(ref("Impairment")), "description": "For an admin key; else empty."},
            jobs=nullable(fields(waiting=INTEGER, dispatched=INTEGER, running=INTEGER)),
        )
    }


def _error() -> Schema:
    return fields(
        "An error, in the shape of the Anthropic API.",
        type={"const": "error"},
        error=fields(type=STRING, message=STRING),
        request_id=STRING,
    )
