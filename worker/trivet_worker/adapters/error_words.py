"""Phrases of the providers' error messages, by the party at fault.

Sources: docs.claude.com/en/api/errors, the AWS documentation of Bedrock's errors and troubleshooting, Google's of Vertex AI
errors, and messages quoted in public issues. Each phrase is one that every wire means alike.
"""

import re


def _any_of(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


MONEY = _any_of(
    r"credit balance is too low",
    r"reached your specified (workspace )?api usage limits?",
    r"(reached|exceed(s|ed)?|over|beyond|hit) .{0,60}(spend|spending|billing|monthly( usage)?) limit",
    r"(spend|spending|billing|monthly( usage)?) limit.{0,60}(reached|exceeded|has been)",
    r"you will regain access on",
    r"requires billing to be enabled",
    r"billing (account|is) .{0,60}(disabled|closed|not (active|enabled|found))",
    r"enable billing",
    r"payment[ _]instrument",
)
"""Words of an unpaid account."""

ACCOUNT = _any_of(
    r"organization (has been|is) (disabled|on hold|suspended)",
    r"(account|project) .{0,60}(has been|is|was) (disabled|suspended|deleted|on hold|closed|not active)",
    r"^operation not allowed\.?$",
    r"has not been used in project .{0,80}or it is disabled",
    r"(vertex ai|agent platform|aiplatform|bedrock)[\w. ]{0,60}(is not enabled|is disabled|has been disabled)",
    r"prohibited by organization.s policy",
    r"workspace .{0,60}(not found|does not exist|archived|disabled)",
)
"""Words about the account or the project, whatever the key."""

KEY = _any_of(
    r"api key (not (valid|found)|(is )?(invalid|expired|disabled|revoked)|has (expired|been (disabled|revoked)))",
    r"security token included in the request is (invalid|expired)",
    r"(bearer )?token (has|is) (expired|revoked|invalid)",
    r"signature (expired|not yet current|we calculated)",
    r"insufficient authentication scopes",
    r"invalid authentication credentials",
)
"""Words about the key or credentials that came with the request."""

USE_CASE_FORM = _any_of(r"use case (details|form)")
"""Words about the form that AWS wants once from each account before any model of Anthropic."""

MODEL = _any_of(
    r"access to (the|this) model",
    r"model access is denied",
    r"model identifier is invalid",
    r"(resolve|recogni[sz]e) the foundation model",
    r"on-demand throughput isn.t supported",
    r"publisher model\b.{0,200}(not (servable|found|supported|available|allowed)|does not exist|no access)",
    r"not allowed to use (the )?publisher model",
    r"^(invalid |unknown |unsupported )?model\b( name| id| identifier)?[^.]{0,160}"
    r"(is invalid|is not supported|not found|does not exist|not a valid|not available|not enabled)",
    r"(the|this) model( version)? (has reached|is past) (its|the) end of (its )?life",
    r"this model is (marked|deprecated|no longer|not (available|supported|enabled|ready for use)( here| in .{0,60})?\.?$)",
    r"data retention mode\b.{0,80}\bmodel",
    r"requires data sharing",
    r"from unsupported (countries|regions|locations)",
    r"(user )?location is not supported",
    r"^[^.:]{0,40}\bmodel\b[^.]{0,160}not (available|supported|servable|enabled) in (this |the |your )?(region|location|country)",
    r"not have access to (this|the|that) model",
    r"(invalid|unsupported|unknown|wrong) .{0,20}(api|anthropic)[ _-]version",
    r"anthropic[ _-]version\b.{0,80}(invalid|unsupported|not (supported|allowed|a? ?valid)|must|should|unknown)",
)
"""Words about a model that is not available to this account, in this region, or in this version of the API."""

NAMES_A_MODEL = _any_of(
    r"publishers/[\w.-]+/models/",
    r"(foundation-model|inference-profile|provisioned-model|custom-model)/",
    r"\b(global|us|eu|jp|au|in|apac|us-gov)?\.?anthropic\.claude",
    r"\bclaude-[a-z0-9]",
    r"\b(this|the|that) (specified )?model\b",
    r"\bmodels?:",
)
"""Names of models: the error concerns one model, whatever it says."""

FEATURE = _any_of(
    r"invalid beta flag",
    r"unexpected value\(s\) .{0,200}anthropic-beta",
    r"anthropic[-_]beta\b.{0,120}(invalid|unknown|unsupported|not supported|unexpected|not (available|allowed|enabled))",
    r"\bbeta (feature|header|flag)s?\b.{0,120}(invalid|unknown|not (available|supported|enabled|allowed))",
)
"""Words about a beta that this wire does not have; requests without it are fine."""

OTHER_THING_MISSING = _any_of(r"\b(file|container|skill|environment|thread|message batch|mcp server)s?\b")
"""Things other than models that a request names."""

OF_ANOTHER_PARTY = _any_of(
    r"\b(mcp|container|file|skill|thread|tool)s?\b",
    r"^(messages|tools|system|metadata|billing_policy|output_config|thinking|tool_choice|container)\b",
    r"(download|fetch|retrieve)",
)
"""Words that concern a thing the request names, not the account, though they speak of a key, money or something missing."""

TOO_LONG = _any_of(
    r"(prompt|input|request|conversation|context) is too (long|large)",
    r"exceeds? (the )?(model.s )?(maximum )?(allowed )?context (limit|length|window|size)",
    r"context (window|length|limit) (is |was )?(exceeded|too)",
    r"maximum context length",
    r"maximum tokens you requested exceeds",
    r"(input|total|prompt) tokens? .{0,40}exceeds?",
    r"too many (input |total |prompt )?tokens in",
)
"""Words about input that is longer than the model takes."""

POLICY = _any_of(
    r"blocked by (our |the |anthropic.s )?content[- ]filter",
    r"content[- ](filter(ing)?|moderation) policy",
    r"(violates?|violation of|against) (our |the |anthropic.s )?(content|usage|acceptable use|safety) polic",
    r"output blocked by",
)
"""Words about content that no provider serves."""

MALFORMED = _any_of(
    # a value that a field cannot have, in the words of the schema's checkers
    r"field required",
    r"input should be ",
    r"should (match pattern|have at (least|most)|be (a |an )?valid|be (greater|less) than|have (a )?(min|max))",
    r"required (key|property) ",
    r"(is|are) (a )?required( property)?\b(?!.{0,40}\b(data sharing|billing|permission))",
    r"(is not|must be) (greater|less|larger|smaller)( than)? or equal to",
    r"expected (type|(min|max)imum (item count|length|value)|one of)",
    r"does not match pattern",
    r"(not a|not) valid (json|base64|enum|number|integer|string|array|object|dictionary|list|uri|url|regex)",
    r"valid (dictionary|list|string|integer|number|boolean|array|object) ",
    r"invalid [`'\"]?(base64|json|type|value|format|role|url|uri|signature|image|pdf|media|schema|cache_control)",
    r"could not (parse|decode|process|read|download|load)",
    r"(un|not )able to (download|process|parse|decode|read|load)",
    # messages and their order
    r"at least one (message|user message)",
    r"(first|last|final) message must",
    r"roles must alternate",
    r"must (be non-empty|not be (empty|blank)|have non-empty|contain non-whitespace|end with|start with|not end with)",
    r"must be (explicitly |a |an |one of|set |greater|less|at (least|most)|between|unique|no (more|less|longer))",
    r"(text|content)( content)? (blocks?|fields?) (must|cannot|is|are) ",
    r"cannot (be empty|end with|contain only|be blank|be set for|be modified|be used together|both be)",
    r"trailing whitespace",
    r"(must|should) (not )?(contain|include|have|be followed by|be preceded by|come|appear|begin|correspond)",
    # tools
    r"tool_(use|result).{0,40}(ids? (were|was) found without|must have|block)",
    r"unexpected .?tool_use_id",
    r"(tool )?(names?|ids?|keys?) (must|should|are|is) (be )?(not )?unique",
    r"duplicate (tool|id|key|name|field)",
    r"tool .{0,80}(not found in|is not (defined|among|one of))",
    r"json schema",
    r"(schema|pattern|regex) (is|was) (invalid|not valid|too)",
    r"tool_choice\b.{0,120}(forces?|must|may not|cannot|requires?|not compatible)",
    # thinking
    r"thinking (may not|cannot|must|is not compatible|and )",
    r"expected .?(thinking|redacted_thinking)",
    r"(signature|thinking).{0,60}(cannot be|must not be|may not be|is) (modified|changed|removed|missing|invalid)",
    r"budget_tokens",
    r"may only be set to",
    # images and documents
    r"image (exceeds|dimensions?|size|was specified|appears|is too|does not match)",
    r"image dimensions exceed",
    r"media[_ ]type",
    r"(too many|maximum of \d+|at most \d+|more than \d+) (images?|documents?|pdf|pages?|blocks?|tools?|items?|stop)",
    r"pdf\b.{0,80}(pages?|password|encrypted|corrupt|not valid|invalid|empty|too|exceed)",
    r"password[- ]protected",
    r"(image|document|file|pdf)s?\b.{0,60}(exceeds?|too (large|small|long|many)|larger than)",
    # limits of fields
    r"is the maximum allowed number of output tokens",
    r"max_tokens\b.{0,60}(must|exceeds?|cannot|should|greater|too (large|high))",
    r"(exceeds?|above|over|more than) the (maximum|limit|max)( allowed)?( (size|length|number|value|count))?\b",
    r"maximum (of|length|size|number|value)\b",
    r"too (many|long|large|small) .{0,20}(stop_sequences|metadata|user_id|schema|name|description)",
    r"stop[_ ]sequences?\b.{0,60}(must|cannot|whitespace|empty|at most)",
    # cache marks
    r"cache_control\b",
    r"\bttl\b.{0,80}(must|before|after|order)",
)
"""Words about a request that no wire would take."""

AMBIGUOUS = _any_of(
    r"extra inputs? (are|is) not permitted",
    r"extraneous key",
    r"unknown (field|name|parameter|key|argument)",
    r"unrecogni[sz]ed (field|parameter|key|argument)",
    r"unexpected (field|parameter|key|keyword)",
    r"does not match any of the expected tags",
    r"(not|isn.t) (yet )?(supported|available|enabled|allowed|permitted)\b",
    r"does(n.t| not) support",
)
"""Words about features that one wire may have and another not: another provider is asked before the request is judged."""
