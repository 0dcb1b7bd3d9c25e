"""The table that sorts a provider's refusal into an outcome: DESIGN's "Outcomes of a call", for the three wires.

Read it from the top: the first row that fits wins. A row fits when everything it names is so. What the three wires say
is brought into one shape (`Refusal`) by `trivet_worker.adapters.refusals`; what the network does is sorted by
`trivet_worker.adapters.network`.

A 400 is called the request's fault only where every wire would say the same. A feature that one wire lacks stays
`doubtful`: asking one more provider costs a call, failing a good job costs the job.

Sources: error types and codes of anthropic 2.12 (`_error_classes.py`, docs.claude.com/en/api/errors), the botocore 1.44
model of bedrock-runtime, google.rpc.Code, and messages seen in public issues (`providers.md`).
"""

import logging
import re
from dataclasses import dataclass

from trivet_tasks.outcomes import Outcome

logger = logging.getLogger("trivet.sorting")

_LOGGED = 300
"""Characters of an unknown error's body that go to the log."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A provider's no, in the words of no wire in particular."""

    provider: str
    """`anthropic`, `bedrock` or `vertex`."""
    status: int
    """The HTTP status. An error event inside a 200 stream: 200, or 400 where it blames the request."""
    type: str = ""
    """Lower case: the first-party `error.type`, the AWS exception's bare name, the Google status."""
    code: str = ""
    """The first-party `error.details.error_code`."""
    message: str = ""
    """The provider's words. Empty when the body was no error body."""
    in_stream: bool = False
    """The refusal came as an event after a 200."""
    shown: str = ""
    """What a log may show of it: the first paragraph of the words, or of a body that is none, without secrets."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. A condition that is not named always holds; of several values one suffices."""

    outcome: Outcome
    name: str
    whole_route: bool = False
    """Of `unusable`: the account, not one model."""
    providers: frozenset[str] = frozenset()
    statuses: frozenset[int] = frozenset()
    types: frozenset[str] = frozenset()
    codes: frozenset[str] = frozenset()
    says: re.Pattern[str] | None = None
    in_stream: bool | None = None

    def fits(self, refusal: Refusal) -> bool:
        """Whether everything this row names is so."""
        return (
            (not self.statuses or refusal.status in self.statuses)
            and (not self.types or refusal.type in self.types)
            and (not self.codes or refusal.code in self.codes)
            and (not self.providers or refusal.provider in self.providers)
            and (self.in_stream is None or refusal.in_stream == self.in_stream)
            and (self.says is None or self.says.search(refusal.message) is not None)
        )


def _set(*values: str) -> frozenset[str]:
    return frozenset(values)


def _http(*values: int) -> frozenset[int]:
    return frozenset(values)


def _any_of(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


_BEDROCK = _set("bedrock")
_VERTEX = _set("vertex")
_ANTHROPIC_FORM = _set("anthropic", "vertex")
"""Vertex passes the model's own error bodies through, in the first-party form."""
_FAILED = frozenset(range(500, 600))

_MONEY_CODES = _set(
    "enforced_spend_limit_reached",
    "contract_spend_limit_reached",
    "linked_organization_spend_limit_reached",
    "linked_organization_billing_unavailable",
)
_ACCOUNT_CODES = _set(
    "organization_on_hold",
    "cmek_key_disabled",
    "cmek_key_network_blocked",
    "workspace_policy_violation",
)
_MONEY = _any_of(
    r"credit balance is too low",
    r"reached your specified (workspace )?api usage limits?",
    r"(spend|spending|billing|monthly usage) limit",
    r"you will regain access on",
    r"requires billing to be enabled",
    r"payment instrument",
)
_ACCOUNT = _any_of(
    r"organization (has been|is) (disabled|on hold|suspended)",
    r"^operation not allowed\.?$",
    r"api key not valid",
    r"security token included in the request is (invalid|expired)",
)
_AWS_ACCOUNT_TYPES = _set(
    "accessdeniedexception",
    "expiredtoken",
    "expiredtokenexception",
    "incompletesignature",
    "incompletesignatureexception",
    "invalidclienttokenid",
    "invalidsignatureexception",
    "missingauthenticationtoken",
    "missingauthenticationtokenexception",
    "optinrequired",
    "signaturedoesnotmatch",
    "unrecognizedclientexception",
)
_USE_CASE_FORM = _any_of(r"use case details", r"use case form")
_MODEL_ACCESS = _any_of(r"access to (the|this) model", r"model access is denied")
_UNKNOWN_MODEL = _any_of(
    r"model identifier is invalid",
    r"on-demand throughput isn.t supported",
    r"publisher model .*(not servable|not found|not supported|not available|not allowed)",
    r"^(invalid |unknown )?model\b( name| id| identifier)?[^.]{0,160}(is invalid|not found|does not exist|not a valid)",
    r"(the|this) model (has reached|is past) (its|the) end of life",
)
_UNKNOWN_VERSION = _any_of(r"^invalid api version\b", r"^anthropic[-_]version\b")
"""The route's setting, or a model that does not speak it: no fault of a request, which cannot name one."""
_OTHER_THING_MISSING = _any_of(r"^(the )?(file|container|skill|environment|thread)s?\b")

_REQUEST_CODES = _set(
    "available_tools_limit_exceeded",
    "compaction_block_ambiguous",
    "compaction_block_misplaced",
    "compaction_content_mismatch",
    "compaction_incomplete_turn",
    "compaction_nothing_to_summarize",
    "compaction_signature_invalid",
    "compaction_too_many_tool_references",
    "compaction_tool_changes_mismatch",
    "file_not_downloadable",
    "image_dimensions_too_large",
    "invalid_metadata",
    "request_body_encoding_invalid",
    "tool_name_conflict",
    "tool_reference_unresolved",
)
_TOO_LONG = _any_of(
    r"(prompt|input) is too long",
    r"exceeds? (the )?(model.s )?(maximum )?context (limit|length|window|size)",
    r"context (window|length|limit) (is )?exceeded",
    r"maximum context length",
)
_POLICY = _any_of(
    r"blocked by (our |the )?content filter",
    r"content[- ](filtering|moderation) policy",
    r"(violates?|violation of|against) (our |the |anthropic.s )?(content|usage|acceptable use|safety) polic",
)
_MALFORMED = _any_of(
    r"field required",
    r"required key \[[^]]*\] not found",
    r"at least one message",
    r"first message must use the .?user.? role",
    r"roles must alternate",
    r"must (be non-empty|not be empty|have non-empty)",
    r"(text|content) (content )?blocks? (must|cannot) ",
    r"tool_use.{0,40}ids? (were|was) found without",
    r"unexpected .?tool_use_id",
    r"tool names must be unique",
    r"could not process (image|pdf)",
    r"invalid base64",
    r"image (exceeds|dimensions exceed)",
    r"is the maximum allowed number of output tokens",
    r"max_tokens.?:? must be greater than",
    r"input should be ",
    r"could not parse .*(json|body)",
)

TABLE: tuple[Row, ...] = (
    # -- the account: money first, because it comes as 429, 400 and 402 alike and lasts to the month's end ------------
    Row(Outcome.UNUSABLE, "spend limit by code", whole_route=True, codes=_MONEY_CODES),
    Row(Outcome.UNUSABLE, "account on hold by code", whole_route=True, codes=_ACCOUNT_CODES),
    Row(
        Outcome.UNUSABLE, "spend limit or credit in words", whole_route=True, statuses=_http(400, 403, 429), says=_MONEY
    ),
    Row(Outcome.UNUSABLE, "account in words", whole_route=True, statuses=_http(400), says=_ACCOUNT),
    # -- rate limits: by name before status, because they come as 400 and inside a 5xx too ----------------------------
    Row(
        Outcome.RATE_LIMITED,
        "AWS throttles",
        providers=_BEDROCK,
        types=_set("throttlingexception", "toomanyrequestsexception", "servicequotaexceededexception"),
    ),
    Row(Outcome.RATE_LIMITED, "AWS says wait", providers=_BEDROCK, says=_any_of(r"too many (tokens|requests)\b")),
    Row(Outcome.RATE_LIMITED, "Google quota", providers=_VERTEX, types=_set("resource_exhausted")),
    Row(
        Outcome.RATE_LIMITED,
        "Google quota in words inside a 5xx",
        providers=_VERTEX,
        statuses=_FAILED,
        says=_any_of(r"resource[_ ]?(has been )?exhausted", r"quota exceeded for", r"temporarily out of capacity"),
    ),
    Row(Outcome.RATE_LIMITED, "rate_limit_error", types=_set("rate_limit_error")),
    # -- short of capacity -------------------------------------------------------------------------------------------
    Row(Outcome.OVERLOADED, "model not ready", providers=_BEDROCK, types=_set("modelnotreadyexception")),
    Row(
        Outcome.OVERLOADED,
        "overloaded by name",
        in_stream=False,
        types=_set("overloaded_error", "serviceunavailableexception"),
    ),
    Row(Outcome.RATE_LIMITED, "429", statuses=_http(429)),
    Row(Outcome.OVERLOADED, "529, 503", statuses=_http(529, 503)),
    # -- the provider gave up waiting --------------------------------------------------------------------------------
    Row(Outcome.TIMEOUT, "model timeout", providers=_BEDROCK, types=_set("modeltimeoutexception")),
    Row(Outcome.TIMEOUT, "408", statuses=_http(408)),
    Row(Outcome.TIMEOUT, "our body came too slowly", statuses=_http(400), codes=_set("request_body_timeout")),
    # -- the model, where the words or the name say that it is only the model ----------------------------------------
    Row(Outcome.UNUSABLE, "AWS use case form", whole_route=True, providers=_BEDROCK, says=_USE_CASE_FORM),
    Row(Outcome.UNUSABLE, "no access to the model", statuses=_http(400, 403), providers=_BEDROCK, says=_MODEL_ACCESS),
    Row(Outcome.UNUSABLE, "model id unknown to the wire", statuses=_http(400), says=_UNKNOWN_MODEL),
    Row(Outcome.UNUSABLE, "API version unknown to the wire", statuses=_http(400), says=_UNKNOWN_VERSION),
    # -- the account -------------------------------------------------------------------------------------------------
    Row(Outcome.UNUSABLE, "AWS account", whole_route=True, providers=_BEDROCK, types=_AWS_ACCOUNT_TYPES),
    Row(
        Outcome.UNUSABLE,
        "Google account",
        whole_route=True,
        providers=_VERTEX,
        types=_set("unauthenticated", "permission_denied"),
    ),
    Row(
        Outcome.UNUSABLE,
        "account by type",
        whole_route=True,
        types=_set("authentication_error", "permission_error", "billing_error"),
    ),
    Row(Outcome.UNUSABLE, "401, 402, 403", whole_route=True, statuses=_http(401, 402, 403)),
    # -- not found: a thing the request names, else the model --------------------------------------------------------
    Row(
        Outcome.INVALID,
        "file or thread not found by code",
        statuses=_http(404),
        codes=_set("file_expired", "thread_not_found", "environment_not_found"),
    ),
    Row(
        Outcome.INVALID,
        "file or container not found",
        statuses=_http(404),
        providers=_ANTHROPIC_FORM,
        types=_set("not_found_error"),
        says=_OTHER_THING_MISSING,
    ),
    Row(Outcome.UNUSABLE, "404", statuses=_http(404)),
    # -- the request's own fault -------------------------------------------------------------------------------------
    Row(Outcome.INVALID, "413, 422", statuses=_http(413, 422)),
    Row(Outcome.INVALID, "request by code", statuses=_http(400), codes=_REQUEST_CODES),
    Row(Outcome.INVALID, "context too long", statuses=_http(400), says=_TOO_LONG),
    Row(Outcome.INVALID, "content policy", statuses=_http(400), says=_POLICY),
    Row(Outcome.INVALID, "malformed", statuses=_http(400), says=_MALFORMED),
    # -- the provider failed -----------------------------------------------------------------------------------------
    Row(Outcome.SERVER_ERROR, "error event in a 200 stream", in_stream=True, statuses=_http(200)),
    Row(Outcome.SERVER_ERROR, "500, 502, 504, 424", statuses=_http(500, 502, 504, 424)),
    # -- a 400 nobody knows ------------------------------------------------------------------------------------------
    Row(Outcome.DOUBTFUL, "another 400", statuses=_http(400)),
)

UNKNOWN = Row(Outcome.SERVER_ERROR, "unknown")
"""What fits no row: it counts as the provider's failure, and is logged."""


def sort(refusal: Refusal) -> Row:
    """The row of the table for a refusal. One that fits none is `UNKNOWN` and is logged, its body cut short."""
    for row in TABLE:
        if row.fits(refusal):
            return row
    logger.warning(
        "unknown refusal counted as %s: %s answered HTTP %s, type %r, code %r, body %r",
        UNKNOWN.outcome.value, refusal.provider, refusal.status, refusal.type[:100], refusal.code[:100],
        refusal.shown[:_LOGGED],
    )  # fmt: skip
    return UNKNOWN
