"""Rules that classify a provider's error: its outcome and, for `unusable`, its scope.

Read the table from the top: the first rule that fits wins. A rule fits when all its conditions hold. `errors.py` brings
the errors of all wires into one shape (`ProviderError`) and classifies failures of the network.

- An error closes only what it proves. Only an error body of an API speaks for an account; a page of a proxy, a firewall
  or a gateway speaks for the one call.
- An error that names a model closes that model alone; one that names a beta closes nothing for requests without it.
- A 400 is the request's fault only where every wire would say the same. A feature that one wire may lack stays
  `ambiguous`: asking one more provider costs a call, failing a good job costs the job.

Sources: error types and codes of the anthropic SDK (`_error_classes.py`), docs.claude.com/en/api/errors, the botocore
model of bedrock-runtime, google.rpc.Code. The phrases are in `error_words.py`.
"""

import logging
import re
from dataclasses import dataclass

from trivet_tasks.outcomes import Outcome, Scope
from trivet_worker.adapters import error_words as words

logger = logging.getLogger("trivet.errors")


@dataclass(frozen=True, slots=True)
class ProviderError:
    """A provider's error in a form that is the same for all wires."""

    provider: str
    """`anthropic`, `bedrock` or `vertex`."""
    status: int
    """HTTP status. For an error event inside a 200 stream: 200, the status in the event, or 400 where it blames the request."""
    type: str = ""
    """Lower case: the first-party `error.type`, the AWS exception's bare name, the Google status."""
    code: str = ""
    """The first-party `error.details.error_code`."""
    message: str = ""
    """The provider's words. Empty when the body was no error body."""
    in_stream: bool = False
    """True if it came as an event after a 200."""
    from_api: bool = True
    """True if the body has the form of an API's errors; False for a page of something on the way."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the table. A condition that is not named always holds; of several values one suffices."""

    outcome: Outcome
    name: str
    scope: Scope | None = None
    """Set for `unusable` alone."""
    providers: frozenset[str] = frozenset()
    statuses: frozenset[int] = frozenset()
    types: frozenset[str] = frozenset()
    codes: frozenset[str] = frozenset()
    says: re.Pattern[str] | None = None
    says_not: re.Pattern[str] | None = None
    in_stream: bool | None = None
    from_api: bool | None = None
    of_key: bool = False
    """True if the key of the worker that asked may be at fault, rather than the account."""

    def fits(self, error: ProviderError) -> bool:
        """Return whether all conditions of this rule hold."""
        return (
            (not self.statuses or error.status in self.statuses)
            and (not self.types or error.type in self.types)
            and (not self.codes or error.code in self.codes)
            and (not self.providers or error.provider in self.providers)
            and (self.in_stream is None or error.in_stream == self.in_stream)
            and (self.from_api is None or error.from_api == self.from_api)
            and (self.says is None or self.says.search(error.message) is not None)
            and (self.says_not is None or self.says_not.search(error.message) is None)
        )


def _set(*values: str) -> frozenset[str]:
    return frozenset(values)


def _http(*values: int) -> frozenset[int]:
    return frozenset(values)


_BEDROCK = _set("bedrock")
_VERTEX = _set("vertex")
_FAILED = frozenset(range(500, 600))
_DENIED = _http(400, 401, 402, 403, 404)
_ON_THE_WAY = (frozenset(range(300, 500)) - {408, 429}) | {502, 511}
"""Statuses that proxies, firewalls and gateways answer with themselves; 502: they got no answer they understood."""

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

RULES: tuple[Rule, ...] = (
    # -- the account: money first, because it comes as 429, 400 and 402 alike and lasts to the month's end ------------
    Rule(Outcome.UNUSABLE, "spend limit by code", Scope.ROUTE, codes=_MONEY_CODES),
    Rule(Outcome.UNUSABLE, "account on hold by code", Scope.ROUTE, codes=_ACCOUNT_CODES),
    Rule(
        Outcome.UNUSABLE,
        "spend limit or credit in words",
        Scope.ROUTE,
        statuses=_http(400, 402, 403, 429),
        from_api=True,
        says=words.MONEY,
        says_not=words.OF_ANOTHER_PARTY,
    ),
    # -- rate limits: by name before status, because they come as 400 and inside a 5xx too ----------------------------
    Rule(
        Outcome.RATE_LIMITED,
        "AWS throttles",
        types=_set(
            "throttlingexception", "toomanyrequestsexception", "servicequotaexceededexception", "limitexceededexception"
        ),
    ),
    Rule(
        Outcome.RATE_LIMITED,
        "AWS says wait",
        providers=_BEDROCK,
        statuses=_http(200, 400, 429, 503),
        says=re.compile(r"too many (tokens|requests)\b(.{0,40}(wait|try again)|\.?$)|^rate exceeded", re.IGNORECASE),
    ),
    Rule(Outcome.RATE_LIMITED, "Google quota", types=_set("resource_exhausted")),
    Rule(
        Outcome.RATE_LIMITED,
        "Google quota in words inside a 5xx",
        providers=_VERTEX,
        statuses=_FAILED,
        says=re.compile(
            r"resource[_ ]?(has been )?exhausted|quota exceeded for|temporarily out of capacity", re.IGNORECASE
        ),
    ),
    Rule(Outcome.RATE_LIMITED, "rate_limit_error", types=_set("rate_limit_error")),
    # -- short of capacity -------------------------------------------------------------------------------------------
    Rule(Outcome.OVERLOADED, "model not ready", types=_set("modelnotreadyexception")),
    Rule(
        Outcome.OVERLOADED,
        "overloaded by name",
        in_stream=False,
        types=_set("overloaded_error", "serviceunavailableexception"),
    ),
    Rule(Outcome.RATE_LIMITED, "429", statuses=_http(429)),
    Rule(Outcome.OVERLOADED, "529, 503", statuses=_http(529, 503)),
    # -- the provider gave up waiting --------------------------------------------------------------------------------
    Rule(Outcome.TIMEOUT, "model timeout", types=_set("modeltimeoutexception")),
    Rule(Outcome.TIMEOUT, "408", statuses=_http(408)),
    Rule(Outcome.TIMEOUT, "our body came too slowly", statuses=_http(400), codes=_set("request_body_timeout")),
    # -- something on the way, not the API --------------------------------------------------------------------------
    Rule(Outcome.PROXY_ERROR, "no error of an API", statuses=_ON_THE_WAY, from_api=False, in_stream=False),
    # -- the request by code or type: what is sure goes before what is read out of words ----------------------------
    Rule(
        Outcome.INVALID,
        "file or thread not found by code",
        statuses=_http(404),
        codes=_set("file_expired", "thread_not_found", "environment_not_found"),
    ),
    Rule(Outcome.INVALID, "request by code", statuses=_http(400), codes=_REQUEST_CODES),
    # -- a feature, the model, the account, in words ---------------------------------------------------------------
    Rule(Outcome.UNUSABLE, "beta unknown to the wire", Scope.FEATURE, statuses=_http(400, 403), says=words.FEATURE),
    Rule(Outcome.UNUSABLE, "AWS use case form", Scope.ROUTE, providers=_BEDROCK, says=words.USE_CASE_FORM),
    Rule(Outcome.UNUSABLE, "model in words", Scope.MODEL, statuses=_DENIED - {402}, says=words.MODEL),
    Rule(
        Outcome.UNUSABLE,
        "key in words",
        Scope.ROUTE,
        statuses=_DENIED,
        says=words.KEY,
        says_not=words.OF_ANOTHER_PARTY,
        of_key=True,
    ),
    Rule(
        Outcome.UNUSABLE,
        "account in words",
        Scope.ROUTE,
        statuses=_DENIED,
        says=words.ACCOUNT,
        says_not=words.OF_ANOTHER_PARTY,
    ),
    # -- the account by type; of a permission, the model that it names ----------------------------------------------
    Rule(
        Outcome.UNUSABLE,
        "no permission for a model",
        Scope.MODEL,
        statuses=_http(200, 403),
        types=_set("accessdeniedexception", "permission_denied", "permission_error"),
        says=words.NAMES_A_MODEL,
    ),
    Rule(Outcome.UNUSABLE, "AWS account", Scope.ROUTE, types=_AWS_ACCOUNT_TYPES, of_key=True),
    Rule(
        Outcome.UNUSABLE,
        "Google account",
        Scope.ROUTE,
        types=_set("unauthenticated", "permission_denied"),
        of_key=True,
    ),
    Rule(
        Outcome.UNUSABLE,
        "key by type",
        Scope.ROUTE,
        types=_set("authentication_error", "permission_error"),
        of_key=True,
    ),
    Rule(Outcome.UNUSABLE, "account by type", Scope.ROUTE, types=_set("billing_error")),
    Rule(Outcome.UNUSABLE, "402", Scope.ROUTE, statuses=_http(402)),
    Rule(Outcome.UNUSABLE, "401, 403", Scope.ROUTE, statuses=_http(401, 403), of_key=True),
    # -- not found: a thing the request names, else the model --------------------------------------------------------
    Rule(
        Outcome.INVALID,
        "file or container not found",
        statuses=_http(404),
        types=_set("not_found_error"),
        says=words.OTHER_THING_MISSING,
        says_not=words.NAMES_A_MODEL,
    ),
    Rule(
        Outcome.AMBIGUOUS,
        "something not found",
        statuses=_http(404),
        types=_set("not_found_error"),
        says_not=words.NAMES_A_MODEL,
    ),
    Rule(Outcome.UNUSABLE, "404", Scope.MODEL, statuses=_http(404)),
    # -- the request's own fault -------------------------------------------------------------------------------------
    Rule(Outcome.INVALID, "413, 422", statuses=_http(413, 422)),
    Rule(Outcome.INVALID, "context too long", statuses=_http(400), says=words.TOO_LONG),
    Rule(Outcome.INVALID, "content policy", statuses=_http(400), says=words.POLICY),
    Rule(Outcome.INVALID, "malformed", statuses=_http(400), says=words.MALFORMED, says_not=words.AMBIGUOUS),
    # -- the provider failed -----------------------------------------------------------------------------------------
    Rule(Outcome.SERVER_ERROR, "error event in a 200 stream", in_stream=True, statuses=_http(200)),
    Rule(
        Outcome.SERVER_ERROR,
        "500, 502, 504, 424 and what comes of a conflict",
        statuses=_http(500, 502, 504, 424, 409, 425, 499),
    ),
    # -- a 400 nobody knows ------------------------------------------------------------------------------------------
    Rule(Outcome.AMBIGUOUS, "another 400", statuses=_http(400)),
)

UNKNOWN = Rule(Outcome.SERVER_ERROR, "unknown")
"""Rule for an error that fits no other: it counts as the provider's failure, and is logged."""


def classify(error: ProviderError) -> Rule:
    """Return the rule for an error. One that fits none is `UNKNOWN`; its status and type are logged, never its words."""
    for rule in RULES:
        if rule.fits(error):
            return rule
    logger.warning(
        "unknown error counted as %s: %s answered HTTP %s, type %r, code %r",
        UNKNOWN.outcome.value, error.provider, error.status, error.type[:100], error.code[:100],
    )  # fmt: skip
    return UNKNOWN
