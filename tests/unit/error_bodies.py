"""Error bodies of the three wires, in our own words after the vendors' documentation, with what each means.

One row an error: how it comes, what it says, what it means. `ROUTE`, `MODEL` and `FEATURE` are how far an `unusable` reaches.
"""

from typing import Any, NamedTuple

from trivet_tasks.outcomes import Outcome, Scope

LIMITED, BUSY, BROKEN, LATE = Outcome.RATE_LIMITED, Outcome.OVERLOADED, Outcome.SERVER_ERROR, Outcome.TIMEOUT
INVALID, AMBIGUOUS, PAGE = Outcome.INVALID, Outcome.AMBIGUOUS, Outcome.PROXY_ERROR
ROUTE, MODEL, FEATURE = Scope.ROUTE, Scope.MODEL, Scope.FEATURE


class ErrorBody(NamedTuple):
    """An error as it comes, and the outcome it means; for an `unusable` its scope."""

    provider: str
    status: int
    headers: dict[str, str]
    body: Any
    means: Outcome | Scope


def anthropic(
    status: int, kind: str, message: str, means: Outcome | Scope, *, code: str = "", on: str = "anthropic"
) -> ErrorBody:
    details = {"details": {"error_code": code}} if code else {}
    body = {"type": "error", "error": {"type": kind, "message": message, **details}, "request_id": "req_1"}
    return ErrorBody(on, status, {"content-type": "application/json"}, body, means)


def aws(status: int, name: str, message: str, means: Outcome | Scope) -> ErrorBody:
    headers = {
        "x-amzn-errortype": f"{name}:http://internal.amazon.com/coral/com.amazon.bedrock/",
        "content-type": "application/json",
    }
    return ErrorBody("bedrock", status, headers, {"message": message}, means)


def google(status: int, name: str, message: str, means: Outcome | Scope, *, in_list: bool = False) -> ErrorBody:
    body = {"error": {"code": status, "message": message, "status": name}}
    return ErrorBody("vertex", status, {"content-type": "application/json"}, [body] if in_list else body, means)


def page(provider: str, status: int, text: Any, means: Outcome | Scope, form: str = "text/html") -> ErrorBody:
    return ErrorBody(provider, status, {"content-type": form}, text, means)


def bad(message: str, means: Outcome | Scope = INVALID) -> ErrorBody:
    """A 400 of the Anthropic API."""
    return anthropic(400, "invalid_request_error", message, means)


def bad_aws(message: str, means: Outcome | Scope = INVALID) -> ErrorBody:
    """A 400 of Bedrock."""
    return aws(400, "ValidationException", message, means)


ARN = "arn:aws:bedrock:us-east-1:123456789012:inference-profile/global.anthropic.claude-opus-5-5"

# fmt: off
ERROR_BODIES: tuple[ErrorBody, ...] = (
    # -- Anthropic: account, money, limits ---------------------------------------------------------------------------
    anthropic(401, "authentication_error", "invalid x-api-key", ROUTE),
    anthropic(401, "authentication_error", "OAuth token has expired. Please obtain a new token.", ROUTE),
    anthropic(401, "authentication_error", "API key has been revoked", ROUTE),
    anthropic(402, "billing_error", "Your account is past due.", ROUTE),
    anthropic(402, "billing_error", "", ROUTE, code="linked_organization_spend_limit_reached"),
    anthropic(402, "some_newer_error", "Pay first.", ROUTE),
    anthropic(403, "permission_error", "Request not allowed", ROUTE),
    anthropic(403, "some_newer_error", "Not for you", ROUTE),
    anthropic(403, "permission_error", "Your API key does not have permission to use the specified resource", ROUTE),
    anthropic(403, "permission_error", "Your organization does not have access to this model.", MODEL),
    anthropic(403, "permission_error", "Your workspace may not use claude-opus-5-5.", MODEL),
    anthropic(429, "rate_limit_error", "", ROUTE, code="enforced_spend_limit_reached"),
    anthropic(429, "rate_limit_error", "", ROUTE, code="contract_spend_limit_reached"),
    anthropic(429, "rate_limit_error", "This request would exceed your organization's rate limit of 50 requests a minute", LIMITED),
    anthropic(429, "rate_limit_error", "Usage has grown too fast", LIMITED, code="ramp_limit_exceeded"),
    bad("Your credit balance is too low to access the Anthropic API.", ROUTE),
    bad("You have reached your specified workspace API usage limits. You will regain access on 2026-12-01.", ROUTE),
    bad("You have reached your specified API usage limits.", ROUTE),
    bad("This organization has been disabled.", ROUTE),
    anthropic(400, "invalid_request_error", "", ROUTE, code="organization_on_hold"),
    anthropic(400, "invalid_request_error", "", ROUTE, code="cmek_key_disabled"),
    # -- Anthropic: model, beta, version ------------------------------------------------------------------------------
    anthropic(404, "not_found_error", "model: claude-nine", MODEL),
    anthropic(404, "not_found_error", "The requested resource could not be found.", AMBIGUOUS),
    bad("model: claude-2 is not available", MODEL),
    bad("Unexpected value(s) `made-up-2026-01-01` for the `anthropic-beta` header.", FEATURE),
    bad("anthropic-version: 2020-01-01 is not a valid version", MODEL),
    # -- Anthropic: capacity and failures -----------------------------------------------------------------------------
    anthropic(529, "overloaded_error", "Overloaded", BUSY),
    anthropic(503, "api_error", "Service unavailable", BUSY),
    anthropic(500, "api_error", "Internal server error", BROKEN),
    anthropic(504, "timeout_error", "The request took too long", BROKEN),
    anthropic(409, "conflict_error", "The resource was changed meanwhile", BROKEN),
    anthropic(400, "invalid_request_error", "", LATE, code="request_body_timeout"),
    # -- Anthropic: the request ---------------------------------------------------------------------------------------
    anthropic(413, "request_too_large", "Request exceeds the maximum size", INVALID),
    anthropic(422, "invalid_request_error", "Unprocessable", INVALID),
    anthropic(404, "not_found_error", "File not found: file_011", INVALID),
    anthropic(404, "not_found_error", "", INVALID, code="file_expired"),
    anthropic(404, "not_found_error", "Container container_9 was not found", INVALID),
    anthropic(400, "invalid_request_error", "", INVALID, code="image_dimensions_too_large"),
    bad("prompt is too long: 210000 tokens > 200000 maximum"),
    bad("input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000, decrease input length"),
    bad("Output blocked by content filtering policy"),
    bad("messages: at least one message is required"),
    bad("messages: first message must use the \"user\" role"),
    bad("messages: roles must alternate between \"user\" and \"assistant\""),
    bad("messages.0.content: Field required"),
    bad("messages.0.role: Input should be 'user' or 'assistant'"),
    bad("messages: text content blocks must be non-empty"),
    bad("messages.2: all messages must have non-empty content except for the optional final assistant message"),
    bad("messages: final assistant content cannot end with trailing whitespace"),
    bad("messages.4: `tool_use` ids were found without `tool_result` blocks immediately after: toolu_01"),
    bad("messages.3.content.0: unexpected `tool_use_id` found in `tool_result` blocks: toolu_02"),
    bad("messages.1: `tool_use` ids must be unique"),
    bad("tools: Tool names must be unique."),
    bad("tools.0.custom.name: String should match pattern '^[a-zA-Z0-9_-]{1,128}$'"),
    bad("tools.3.custom.input_schema: JSON schema is invalid. It must match JSON Schema draft 2020-12."),
    bad("tools.0.custom.input_schema.type: Input should be 'object'"),
    bad("tool_choice: Tool 'look_up' not found in provided tools"),
    bad("Thinking may not be enabled when tool_choice forces tool use."),
    bad("`max_tokens` must be greater than `thinking.budget_tokens`."),
    bad("messages.1.content.0: Invalid `signature` in `thinking` block"),
    bad("messages.1.content.0.type: Expected `thinking` or `redacted_thinking`, but found `text`."),
    bad("messages.1.content.0: `thinking` blocks in the latest assistant message cannot be modified."),
    bad("`temperature` may only be set to 1 when thinking is enabled."),
    bad("A maximum of 4 blocks with cache_control may be provided. Found 5."),
    bad("messages.0.content.1.cache_control.ttl: a ttl='1h' block must not come after a ttl='5m' block."),
    bad("messages.0.content.0.image.source.base64.media_type: Input should be 'image/jpeg', 'image/png', 'image/gif' or 'image/webp'"),
    bad("messages.0.content.0.image.source.base64: The image was specified using image/jpeg, but it appears to be image/png"),
    bad("messages.0.content.0.image.source.base64.data: invalid base64 data"),
    bad("messages.0.content.0.image.source.base64: image exceeds 5 MB maximum: 6000000 bytes > 5242880 bytes"),
    bad("Could not process image"),
    bad("At least one of the image dimensions exceed max allowed size: 8000 pixels"),
    bad("A maximum of 100 PDF pages may be provided."),
    bad("The PDF specified was password protected."),
    bad("The PDF specified was not valid."),
    bad("Could not process PDF"),
    bad("Unable to download the file. Please verify the URL and try again."),
    bad("max_tokens: 100000 > 64000, which is the maximum allowed number of output tokens for claude-haiku-4-5"),
    bad("stop_sequences: each stop sequence must contain non-whitespace"),
    bad("The request body is not valid JSON: unexpected character"),
    bad("system.0.cache_control: cache_control cannot be set for empty text blocks"),
    bad("output_config.format.schema: For 'object' type, 'additionalProperties' must be explicitly set to false"),
    bad("metadata.user_id: String should have at most 256 characters"),
    # -- Anthropic: what another wire may take ------------------------------------------------------------------------
    bad("shiny: Extra inputs are not permitted", AMBIGUOUS),
    bad("tools.0: Input tag 'web_search_20990101' found using 'type' does not match any of the expected tags", AMBIGUOUS),
    bad("This model does not support the effort parameter.", AMBIGUOUS),
    bad("something nobody has read before", AMBIGUOUS),
    # -- what a request names, and what some models lack, is nobody's account and closes no model --------------------
    bad('"thinking.type.enabled" is not supported for this model. Use "thinking.type.adaptive".', AMBIGUOUS),
    bad('output_config.effort: "xhigh" is not supported for this model.', AMBIGUOUS),
    bad("Fast mode is not available for this model", AMBIGUOUS),
    bad("web_search tool is not supported in this region", AMBIGUOUS),
    bad("This model is not supported with fast mode", AMBIGUOUS),
    bad("The code execution tool requires data retention to be enabled for your organization", AMBIGUOUS),
    bad("Files API is not enabled for this workspace", AMBIGUOUS),
    bad("mcp_servers.0: MCP server 'x' answered 401: invalid authentication credentials", AMBIGUOUS),
    bad("container: the container token has expired", AMBIGUOUS),
    bad("tools.0: tool 'set_spending_limit' has reached its billing limit", AMBIGUOUS),
    bad_aws("Your account is not authorized to use citations", AMBIGUOUS),
    anthropic(404, "not_found_error", "Could not find file file_011", INVALID),
    anthropic(404, "not_found_error", "File with id file_011 in workspace wrkspc_2 not found", INVALID),
    anthropic(429, "rate_limit_error", "Too fast; see the monthly usage limit page", LIMITED),
    bad_aws("too many tokens in prompt: try a shorter one", INVALID),
    # -- Bedrock: account, limits -------------------------------------------------------------------------------------
    aws(403, "UnrecognizedClientException", "The security token included in the request is invalid.", ROUTE),
    aws(403, "ExpiredTokenException", "The security token included in the request is expired", ROUTE),
    aws(403, "InvalidSignatureException", "Signature expired: 20261129T000000Z is now earlier than 20261129T000500Z", ROUTE),
    aws(403, "AccessDeniedException", "Authentication failed: Please make sure your API Key is valid.", ROUTE),
    aws(403, "AccessDeniedException", "Bearer Token has expired", ROUTE),
    aws(403, "AccessDeniedException", "User: arn:aws:iam::1:user/u is not authorized to perform: bedrock:CallWithBearerToken", ROUTE),
    aws(403, "AccessDeniedException", "Model access is denied due to INVALID_PAYMENT_INSTRUMENT: A valid payment instrument "
        "must be provided.", ROUTE),
    aws(400, "ValidationException", "Operation not allowed", ROUTE),
    aws(404, "ResourceNotFoundException", "Model use case details have not been submitted for this account.", ROUTE),
    aws(429, "ThrottlingException", "Too many requests, please wait before trying again.", LIMITED),
    aws(429, "ThrottlingException", "Too many tokens per day, please wait before trying again.", LIMITED),
    aws(400, "ServiceQuotaExceededException", "Your request exceeds the service quota for your account.", LIMITED),
    bad_aws("Too many tokens, please wait before trying again.", LIMITED),
    aws(429, "ModelNotReadyException", "The model is not ready for inference.", BUSY),
    aws(503, "ServiceUnavailableException", "Bedrock is unable to process your request.", BUSY),
    aws(500, "InternalServerException", "The system encountered an unexpected error.", BROKEN),
    aws(424, "ModelErrorException", "The system encountered an unexpected error during processing.", BROKEN),
    aws(408, "ModelTimeoutException", "Model has timed out in processing the request.", LATE),
    # -- Bedrock: model -----------------------------------------------------------------------------------------------
    aws(403, "AccessDeniedException", f"User: arn:aws:iam::1:user/u is not authorized to perform: bedrock:InvokeModel on resource: {ARN} "
        "because no identity-based policy allows the bedrock:InvokeModel action", MODEL),
    aws(403, "AccessDeniedException", "User: arn:aws:sts::1:assumed-role/r/s is not authorized to perform: "
        "bedrock:InvokeModelWithResponseStream on resource: arn:aws:bedrock:::foundation-model/anthropic.claude-opus-5-5 with an "
        "explicit deny in a service control policy", MODEL),
    aws(403, "AccessDeniedException", "You don't have access to the model with the specified model ID.", MODEL),
    aws(403, "AccessDeniedException", "Model access is denied due to IAM user or service role is not authorized to perform the "
        "required AWS Marketplace actions (aws-marketplace:Subscribe)", MODEL),
    aws(404, "ResourceNotFoundException", "This Model is marked by provider as Legacy and you have not been actively using it.", MODEL),
    aws(404, "ResourceNotFoundException", "This model version has reached the end of its life.", MODEL),
    aws(404, "ResourceNotFoundException", "Could not resolve the foundation model from the provided model identifier.", MODEL),
    bad_aws("The provided model identifier is invalid.", MODEL),
    bad_aws("Invocation of model ID anthropic.claude-opus-5-5 with on-demand throughput isn't supported.", MODEL),
    bad_aws("data retention mode 'default' is not available for this model", MODEL),
    bad_aws("Access to Anthropic models is not allowed from unsupported countries, regions, or territories.", MODEL),
    bad_aws("invalid beta flag", FEATURE),
    bad_aws("anthropic_version: '2026-10-21' is not supported for this model", MODEL),
    # -- Bedrock: the request -----------------------------------------------------------------------------------------
    bad_aws("Input is too long for requested model."),
    bad_aws("The maximum tokens you requested exceeds the model limit of 64000. Try again with a lower value."),
    bad_aws("Malformed input request: #: required key [max_tokens] not found, please reformat your input and try again."),
    bad_aws("Malformed input request: #/max_tokens: 0 is not greater or equal to 1, please reformat your input and try again."),
    bad_aws("Malformed input request: #/messages: expected minimum item count: 1, found: 0, please reformat your input."),
    bad_aws("Malformed input request: extraneous key [shiny] is not permitted, please reformat your input and try again.", AMBIGUOUS),
    bad_aws("messages.0.content.0.document: The PDF specified was password protected."),
    bad_aws("The model returned the following errors: messages: at least one message is required"),
    bad_aws("The model returned the following errors: tools.0.name: String should match pattern '^[a-z]{1,64}$'"),
    bad_aws("Something of Bedrock's own.", AMBIGUOUS),
    # -- Vertex: account, limits --------------------------------------------------------------------------------------
    google(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.", ROUTE),
    google(403, "PERMISSION_DENIED", "Request had insufficient authentication scopes.", ROUTE),
    google(403, "PERMISSION_DENIED", "Vertex AI API has not been used in project 12 before or it is disabled.", ROUTE),
    google(403, "PERMISSION_DENIED", "This API method requires billing to be enabled.", ROUTE),
    google(403, "PERMISSION_DENIED", "Request is prohibited by organization's policy.", ROUTE),
    google(403, "PERMISSION_DENIED", "The caller does not have permission", ROUTE),
    google(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", ROUTE),
    google(429, "RESOURCE_EXHAUSTED", "Quota exceeded for aiplatform.googleapis.com/online_prediction_requests", LIMITED),
    google(429, "RESOURCE_EXHAUSTED", "Resource exhausted. Please try again later.", LIMITED, in_list=True),
    page("vertex", 500, {"error": {"code": 429, "message": "wrapped"}}, LIMITED, "application/json"),
    google(503, "UNAVAILABLE", "The model is temporarily out of capacity.", LIMITED),
    google(503, "UNAVAILABLE", "The service is currently unavailable.", BUSY),
    google(500, "INTERNAL", "Internal error encountered.", BROKEN),
    google(504, "DEADLINE_EXCEEDED", "Deadline expired before the operation could complete.", BROKEN),
    google(499, "CANCELLED", "The operation was cancelled.", BROKEN),
    # -- Vertex: model ------------------------------------------------------------------------------------------------
    google(403, "PERMISSION_DENIED", "Access to this model requires data sharing to be enabled for publisher 'anthropic'.", MODEL,
           in_list=True),
    google(403, "PERMISSION_DENIED", "Permission 'aiplatform.endpoints.predict' denied on resource '//aiplatform.googleapis.com/"
           "projects/p/locations/global/publishers/anthropic/models/claude-opus-5-5' (or it may not exist).", MODEL),
    google(400, "FAILED_PRECONDITION", "Project `p` is not allowed to use Publisher Model `publishers/anthropic/models/x`", MODEL),
    google(400, "FAILED_PRECONDITION", "Publisher Model `publishers/anthropic/models/x` is not servable in region us-east5.", MODEL),
    google(404, "NOT_FOUND", "Publisher Model `projects/p/models/x` was not found or your project does not have access to it.", MODEL),
    google(400, "FAILED_PRECONDITION", "User location is not supported for the API use.", MODEL),
    # -- Vertex: the request, in Anthropic's form too -----------------------------------------------------------------
    anthropic(400, "invalid_request_error", "messages.0.content: Field required", INVALID, on="vertex"),
    anthropic(400, "invalid_request_error", "Output blocked by content filtering policy", INVALID, on="vertex"),
    anthropic(400, "invalid_request_error", "anthropic_version: Input should be 'vertex-2023-10-16'", MODEL, on="vertex"),
    anthropic(529, "overloaded_error", "Overloaded", BUSY, on="vertex"),
    google(400, "INVALID_ARGUMENT", "Request contains an invalid argument.", AMBIGUOUS),
    # -- what no API said ---------------------------------------------------------------------------------------------
    page("anthropic", 403, "<html><title>Blocked</title>Your request was blocked by the security policy.</html>", PAGE),
    page("anthropic", 413, "<html><center><h1>413 Request Entity Too Large</h1></center>nginx</html>", PAGE),
    page("anthropic", 502, "<html><h1>502 Bad Gateway</h1></html>", PAGE),
    page("anthropic", 407, "Proxy Authentication Required", PAGE, "text/plain"),
    page("anthropic", 404, "404 page not found", PAGE, "text/plain"),
    page("anthropic", 401, {"detail": "Not authenticated"}, PAGE, "application/json"),
    page("anthropic", 400, "<html>400 Request Header Or Cookie Too Large</html>", PAGE),
    page("anthropic", 302, "", PAGE),
    page("anthropic", 511, "<html>Log in to the network</html>", PAGE),
    page("anthropic", 403, {"error": {"message": "key not allowed", "type": "key_error", "code": "403"}}, PAGE, "application/json"),
    page("anthropic", 451, "", PAGE),
    page("bedrock", 403, {"message": "Forbidden"}, PAGE, "application/json"),
    ErrorBody("bedrock", 403, {"x-amzn-errortype": "ForbiddenException"}, {"message": "Forbidden"}, PAGE),
    page("bedrock", 403, "<html>Access Denied</html>", PAGE),
    page("bedrock", 502, "", PAGE),
    page("bedrock", 413, "<html>413</html>", PAGE),
    page("vertex", 403, "<html>Error 403 (Forbidden)!!1</html>", PAGE),
    page("vertex", 404, "<html>Error 404 (Not Found)!!1</html>", PAGE),
    page("vertex", 401, {"error": "invalid_grant", "error_description": "Bad Request"}, PAGE, "application/json"),
    page("vertex", 502, "<html>The server encountered a temporary error</html>", PAGE),
    page("anthropic", 503, "<html>Service Unavailable</html>", BUSY),
    page("anthropic", 504, "<html>Gateway Time-out</html>", BROKEN),
    page("anthropic", 500, "", BROKEN),
    page("anthropic", 429, "<html>Too Many Requests</html>", LIMITED),
    page("vertex", 429, "", LIMITED),
    page("anthropic", 408, "", LATE),
    page("bedrock", 400, {"message": "Input is too long for requested model."}, INVALID, "application/json"),
)
# fmt: on
