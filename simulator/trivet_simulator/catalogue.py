"""The faults that can be asked for, as a table: what each provider really says when it happens.

`REPLIES` are whole error answers, per wire; None where a provider has no such answer. `BEHAVIOURS` change how a call is
answered or broken off. Bedrock's statuses and names: botocore's bedrock-runtime model (1.44). Anthropic's: the error
page of its documentation and `_error_classes.py` of the SDK (2.12). Vertex's: bodies quoted in public issues; errors of
the model itself arrive there in Anthropic's own form (`passed_on`), those of the platform in Google's list form.
`{model}` in a message is filled in.
"""

from __future__ import annotations

from trivet_simulator.access import ACCESS
from trivet_simulator.pages import PAGES
from trivet_simulator.poison import POISON
from trivet_simulator.replies import Reply as Reply
from trivet_simulator.replies import Row
from trivet_simulator.request_faults import REQUEST_FAULTS

_QUOTA = (
    "Quota exceeded for aiplatform.googleapis.com/online_prediction_requests_per_base_model with base model: {model}. "
    "Please submit a quota increase request. https://cloud.google.com/vertex-ai/docs/generative-ai/quotas-genai."
)
_TOO_LONG = "prompt is too long: 1000213 tokens > 1000000 maximum"
_POLICY = "Output blocked by content filtering policy"
_STRANGE = "messages.0: the simulator refuses this request for no reason a client could know"

REPLIES: dict[str, Row] = {
    "rate_limited": Row(
        "too many requests or tokens in this minute",
        Reply(
            429,
            "rate_limit_error",
            "This request would exceed your organization's rate limit. Please reduce the prompt length or the maximum "
            "tokens requested, or try again later.",
            retry_after_s=5,
        ),
        Reply(429, "ThrottlingException", "Too many requests, please wait before trying again."),
        Reply(429, "RESOURCE_EXHAUSTED", _QUOTA),
    ),
    "too_many_tokens": Row(
        "Bedrock's throttle by tokens, which reads like a context overflow and is none",
        bedrock=Reply(429, "ThrottlingException", "Too many tokens, please wait before trying again."),
    ),
    "quota_exceeded": Row(
        "Bedrock's service quota, with HTTP status 400",
        bedrock=Reply(400, "ServiceQuotaExceededException", "Your request exceeds the service quota for your account."),
    ),
    "resource_exhausted": Row(
        "Vertex out of quota or of capacity",
        vertex=Reply(
            429, "RESOURCE_EXHAUSTED", "Resource exhausted. Please try again later. The model is out of capacity."
        ),
    ),
    "resource_exhausted_in_500": Row(
        "Vertex's 429 wrapped in a 500, as some gateways do",
        vertex=Reply(500, "RESOURCE_EXHAUSTED", "Resource exhausted. Please try again later.", code_in_body=429),
    ),
    "ramp_limited": Row(
        "usage grew too fast",
        Reply(
            429,
            "rate_limit_error",
            "This request would exceed a limit on how fast your usage may grow. Please scale up gradually.",
            code="ramp_limit_exceeded",
            retry_after_s=30,
        ),
    ),
    "spend_limit": Row(
        "monthly spend limit of the organisation: 429 without retry-after, lasts to the end of the month",
        Reply(
            429,
            "rate_limit_error",
            "You have reached your specified API usage limits. You will regain access on the first of next month.",
            code="enforced_spend_limit_reached",
        ),
    ),
    "workspace_spend_limit": Row(
        "spend limit of the workspace: a 400",
        Reply(
            400,
            "invalid_request_error",
            "You have reached your specified workspace API usage limits. You will regain access on the first of next "
            "month at 00:00 UTC.",
        ),
    ),
    "billing": Row(
        "credit exhausted or billing switched off",
        Reply(
            400,
            "invalid_request_error",
            "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or "
            "purchase credits.",
        ),
        Reply(
            403,
            "AccessDeniedException",
            "Model access is denied due to INVALID_PAYMENT_INSTRUMENT: A valid payment instrument must be provided.",
        ),
        Reply(403, "PERMISSION_DENIED", "This API method requires billing to be enabled on the project."),
    ),
    "payment_required": Row(
        "the account cannot be billed: 402",
        Reply(402, "billing_error", "There is a problem with your organization's billing."),
    ),
    "server_error": Row(
        "internal error",
        Reply(500, "api_error", "Internal server error"),
        Reply(500, "InternalServerException", "The system encountered an unexpected error during processing."),
        Reply(500, "INTERNAL", "Internal error encountered."),
    ),
    "bad_gateway": Row(
        "502 from something in front",
        Reply(502, "api_error", "Bad gateway"),
        Reply(502, "InternalServerException", "Bad gateway"),
        Reply(502, "UNAVAILABLE", "Bad gateway"),
    ),
    "gateway_timeout": Row(
        "504 from the provider",
        Reply(504, "timeout_error", "The request took too long to process."),
        Reply(504, "InternalServerException", "Endpoint request timed out"),
        Reply(504, "DEADLINE_EXCEEDED", "Deadline exceeded."),
    ),
    "overloaded": Row(
        "no capacity just now: 529 or 503",
        Reply(529, "overloaded_error", "Overloaded"),
        Reply(503, "ServiceUnavailableException", "Bedrock is unable to process your request."),
        Reply(503, "UNAVAILABLE", "The service is currently unavailable."),
    ),
    "unavailable": Row(
        "503 on every wire",
        Reply(503, "api_error", "Service unavailable"),
        Reply(503, "ServiceUnavailableException", "The service isn't available. Try again later."),
        Reply(503, "UNAVAILABLE", "The service is currently unavailable."),
    ),
    "model_not_ready": Row(
        "Bedrock: the model is being loaded",
        bedrock=Reply(429, "ModelNotReadyException", "Model is not ready for inference. Please try again later."),
    ),
    "model_error": Row(
        "Bedrock: the model failed on this call",
        bedrock=Reply(424, "ModelErrorException", "The system encountered an error while processing the request."),
    ),
    "model_timeout": Row(
        "Bedrock: the model took too long",
        bedrock=Reply(408, "ModelTimeoutException", "Model has timed out in processing the request. Try again."),
    ),
    "auth": Row(
        "credentials not accepted",
        Reply(401, "authentication_error", "invalid x-api-key"),
        Reply(403, "UnrecognizedClientException", "The security token included in the request is invalid."),
        Reply(
            401,
            "UNAUTHENTICATED",
            "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other "
            "valid authentication credential.",
        ),
    ),
    "permission": Row(
        "credentials good, but not for this",
        Reply(403, "permission_error", "Your API key does not have permission to use the specified resource."),
        Reply(403, "AccessDeniedException", "You don't have access to the model with the specified model ID."),
        Reply(
            403,
            "PERMISSION_DENIED",
            "Permission 'aiplatform.endpoints.predict' denied on resource.",
        ),
    ),
    "model_missing": Row(
        "the model is not known or not there",
        Reply(404, "not_found_error", "model: {model}"),
        Reply(400, "ValidationException", "The provided model identifier is invalid."),
        Reply(
            404,
            "NOT_FOUND",
            "Publisher Model `publishers/anthropic/models/{model}` was not found or your project does not have access "
            "to it. Please ensure you are using a valid model version.",
        ),
    ),
    "model_retired": Row(
        "the model has reached its end of life",
        Reply(404, "not_found_error", "model: {model}"),
        Reply(404, "ResourceNotFoundException", "This model version has reached the end of its life."),
        Reply(404, "NOT_FOUND", "Publisher Model `publishers/anthropic/models/{model}` was not found."),
    ),
    "context_too_long": Row(
        "the prompt does not fit the model",
        Reply(400, "invalid_request_error", _TOO_LONG),
        Reply(400, "ValidationException", _TOO_LONG),
        Reply(400, "invalid_request_error", _TOO_LONG, passed_on=True),
    ),
    "content_policy": Row(
        "the request was refused by a filter",
        Reply(400, "invalid_request_error", _POLICY),
        Reply(400, "ValidationException", _POLICY),
        Reply(400, "invalid_request_error", _POLICY, passed_on=True),
    ),
    "request_too_large": Row(
        "body over the size limit",
        Reply(
            413,
            "request_too_large",
            "Request exceeds the maximum allowed number of bytes. The maximum request size is 32 MB.",
        ),
        Reply(413, "RequestEntityTooLargeException", "Request body exceeds the maximum allowed size."),
        Reply(413, "invalid_request_error", "Prompt is too long", passed_on=True),
    ),
    "unprocessable": Row(
        "422",
        Reply(422, "invalid_request_error", "The request could not be processed."),
        Reply(422, "ValidationException", "The request could not be processed."),
        Reply(422, "INVALID_ARGUMENT", "The request could not be processed."),
    ),
    "unknown_400": Row(
        "a 400 with a text nobody has seen before",
        Reply(400, "invalid_request_error", _STRANGE),
        Reply(400, "ValidationException", _STRANGE),
        Reply(400, "FAILED_PRECONDITION", _STRANGE),
    ),
    **ACCESS,
    **REQUEST_FAULTS,
}

BEHAVIOURS: dict[str, str] = {
    "raw": "the status, body and headers given",
    "refusal": "200 with stop_reason refusal",
    "pause_turn": "200 with stop_reason pause_turn",
    "max_tokens": "200 with stop_reason max_tokens",
    "context_window_exceeded": "200 with stop_reason model_context_window_exceeded",
    "no_stop_reason": "200 whose message has no stop_reason",
    "hang": "never answers",
    "held": "the whole answer once the fault is cleared",
    "slow_first_byte": "the whole answer `seconds` later",
    "slow_drip": "the answer's body in small pieces over `seconds`",
    "latency": "the usual latency times `factor`",
    "reset": "the connection is reset before any header",
    "cut": "the body breaks off in the middle and the connection closes",
    "garbled": "a complete answer whose JSON is broken",
    "empty": "200 with an empty body",
    "stalled_stream": "half the body, or `after_bytes` of a stream, then silence",
    "stream_error": "an error event in the middle of a stream (calls that do not stream are answered)",
    "stream_without_end": "a stream that closes without its last events (calls that do not stream are answered)",
    **{name: f"{page.status} as an HTML page of {page.server}, without an API error" for name, page in PAGES.items()},
    **POISON,
}

STOP_REASONS = {
    "refusal": "refusal",
    "pause_turn": "pause_turn",
    "max_tokens": "max_tokens",
    "context_window_exceeded": "model_context_window_exceeded",
}
"""Behaviours that are complete answers, with the stop reason they give."""

UNFINISHED = frozenset(
    {"no_stop_reason", "cut", "garbled", "empty", "stalled_stream", "stream_error", "stream_without_end"}
)
"""Behaviours whose 200 is not a complete answer."""

_USUAL = ("rate_limited", "unknown_400", "auth", "permission", "model_missing", "server_error", "overloaded")
"""Asked for by a bare status, these come before the rest of the table."""

BY_STATUS: dict[str, dict[int, str]] = {wire: {} for wire in ("anthropic", "bedrock", "vertex")}
"""The fault meant by a bare status on a wire."""
for _name in (*_USUAL, *REPLIES):
    for _wire, _names in BY_STATUS.items():
        if (_reply := REPLIES[_name].on(_wire)) is not None:
            _names.setdefault(_reply.status, _name)


def kinds(wire: str) -> list[str]:
    """The names of all faults one wire can show."""
    return [name for name, row in REPLIES.items() if row.on(wire) is not None] + list(BEHAVIOURS)
