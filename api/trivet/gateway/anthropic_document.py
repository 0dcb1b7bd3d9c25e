"""The Anthropic API in the OpenAPI document, loosely: providers add fields, and the gateway passes them on."""

from trivet.gateway.resources.schemas import ANY_OBJECT, BOOLEAN, INTEGER, STRING, Schema, fields, many, nullable, ref

_OWN_HEADERS = {
    "x-trivet-latency": "Latency class: realtime, interactive (default), batch, async or deferred.",
    "x-trivet-deadline": "Deadline: 5m, or seconds.",
    "x-trivet-tags": "Tags: name=value pairs by comma, or a JSON object.",
    "x-trivet-tenant": "Tenant, for admin keys.",
    "x-trivet-residency": "Residency that the routes must have, by comma.",
    "x-trivet-compliance": "Compliance that the routes must have, by comma.",
    "x-trivet-cache": "Whether an earlier answer may be used: true or false.",
    "idempotency-key": "Key: a repeated request gets the same answer.",
    "prefer": "`respond-async`: answer at once with the job.",
    "anthropic-version": "2023-06-01.",
    "anthropic-beta": "Beta features, by comma.",
}
_ANSWER_HEADERS = {
    "x-trivet-job": "Id of the job.",
    "x-trivet-route": "Route that answered.",
    "x-trivet-cost-usd": "Settled cost of all calls.",
    "x-trivet-attempts": "Number of provider calls.",
    "x-trivet-cached": "Whether an earlier answer was used.",
}


def _headers(names: dict[str, str]) -> dict[str, Schema]:
    return {name: {"description": text, "schema": STRING} for name, text in names.items()}


def _parameters(names: dict[str, str]) -> list[Schema]:
    return [
        {"name": name, "in": "header", "required": False, "description": text, "schema": STRING}
        for name, text in names.items()
    ]


def _json(name: str) -> Schema:
    return {"application/json": {"schema": ref(name)}}


PATHS: dict[str, dict[str, Schema]] = {
    "/v1/messages": {
        "post": {
            "operationId": "create_message",
            "tags": ["messages"],
            "summary": "Create a message",
            "description": "The Messages API of Anthropic. It waits for the answer of a route; `stream: true` streams it.",
            "parameters": _parameters(_OWN_HEADERS),
            "requestBody": {"required": True, "content": _json("MessagesRequest")},
            "responses": {
                "200": {
                    "description": "The message, as the provider gave it; or its events.",
                    "headers": _headers(_ANSWER_HEADERS),
                    "content": {**_json("Message"), "text/event-stream": {"schema": STRING}},
                },
                "202": {
                    "description": "The job, which goes on: of the classes batch, async and deferred, or as preferred.",
                    "headers": _headers({"location": "Address of the job."}),
                    "content": _json("AcceptedJob"),
                },
            },
            "errors": (404, 408, 409, 413, 504, 529),
        }
    },
    "/v1/messages/count_tokens": {
        "post": {
            "operationId": "count_tokens",
            "tags": ["messages"],
            "summary": "Count the input tokens of a request",
            "requestBody": {"required": True, "content": _json("CountTokensRequest")},
            "responses": {"200": {"description": "The count.", "content": _json("TokenCount")}},
            "errors": (404, 408, 413, 504, 529),
        }
    },
    "/v1/models": {
        "get": {
            "operationId": "list_models",
            "tags": ["messages"],
            "summary": "List the models that the routes serve",
            "parameters": [
                {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 1000}},
                {"name": "before_id", "in": "query", "schema": STRING},
                {"name": "after_id", "in": "query", "schema": STRING},
                {
                    "name": "lifecycle",
                    "in": "query",
                    "description": "Only models in these states; may be repeated. All without it.",
                    "schema": many({"enum": ["active", "deprecated", "retired"]}),
                },
            ],
            "responses": {"200": {"description": "A page of models.", "content": _json("Models")}},
            "errors": (404,),
        }
    },
    "/v1/models/{model_id}": {
        "get": {
            "operationId": "get_model",
            "tags": ["messages"],
            "summary": "Show a model",
            "parameters": [{"name": "model_id", "in": "path", "required": True, "schema": STRING}],
            "responses": {"200": {"description": "The model.", "content": _json("Model")}},
            "errors": (404,),
        }
    },
    "/healthz": {
        "get": {
            "operationId": "alive",
            "tags": ["operation"],
            "summary": "Say that this process serves requests",
            "security": [],
            "responses": {"200": {"description": "It does.", "content": {"application/json": {"schema": ANY_OBJECT}}}},
            "errors": (),
        }
    },
}


def anthropic_schemas() -> dict[str, Schema]:
    """Return the components of the Anthropic API, by name."""
    turn = fields(role={"enum": ["user", "assistant", "system"]}, content={"anyOf": [STRING, many(ANY_OBJECT)]})
    text: Schema = {"anyOf": [STRING, many(ANY_OBJECT)]}
    request = fields(
        "A request of the Messages API.",
        model=STRING,
        max_tokens={"type": "integer", "minimum": 1},
        messages=many(turn),
    )
    request["properties"] |= {
        "system": text,
        "stream": BOOLEAN,
        "temperature": {"type": "number"},
        "stop_sequences": many(STRING),
        "tools": many(ANY_OBJECT),
        "tool_choice": ANY_OBJECT,
        "thinking": ANY_OBJECT,
        "metadata": ANY_OBJECT,
    }
    asked: Schema = {"model": "claude-haiku-4-5", "messages": [{"role": "user", "content": "Say yes."}]}
    request["examples"] = [{**asked, "max_tokens": 100}]
    count = fields("A request whose input tokens are counted.", model=STRING, messages=many(turn))
    count["examples"] = [asked]
    count["properties"] |= {"system": text, "tools": many(ANY_OBJECT)}
    return {
        "MessagesRequest": request,
        "CountTokensRequest": count,
        "TokenCount": fields(input_tokens=INTEGER),
        "Message": fields(
            "A message of the Messages API.",
            id=STRING,
            type={"const": "message"},
            role={"const": "assistant"},
            model=STRING,
            content=many(ANY_OBJECT),
            stop_reason=nullable(STRING),
            usage=ANY_OBJECT,
        ),
        "AcceptedJob": {
            **fields(
                "A job that goes on. Always with `id`, `url` and `warnings`.",
                id=STRING,
                url=STRING,
                warnings=many(STRING),
                state=STRING,
                latency=STRING,
                model=STRING,
            ),
            "required": ["id", "url", "warnings"],
        },
        "Model": fields(
            "A model; `trivet` has the routes that serve it, with their limits and prices.",
            id=STRING,
            type={"const": "model"},
            display_name=STRING,
            created_at=STRING,
            lifecycle={"enum": ["active", "deprecated"]},
            max_input_tokens=nullable(INTEGER),
            max_tokens=nullable(INTEGER),
            trivet=ANY_OBJECT,
        ),
        "Models": fields(
            data=many(ref("Model")), has_more=BOOLEAN, first_id=nullable(STRING), last_id=nullable(STRING)
        ),
    }
