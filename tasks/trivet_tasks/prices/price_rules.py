"""Prices that genai-prices leaves out of its lists: our own small, dated table. Data only; `price_rates` applies it.

A rule holds only where the list has no figure of its own for the case, so nothing is counted twice the day the list
learns it. All factors apply to tokens, never to web searches. Change a line here and `RULES_VERSION` with it:
the version is stored with every attempt, so that records can be priced again.
"""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Literal, TypeAlias

RULES_VERSION = "2026-11-29"
"""The day of the latest change."""

Case: TypeAlias = Literal["regional", "us_gov", "inference_geo_us", "batch", "fast"]
"""regional: served in one geography; us_gov: in AWS GovCloud; inference_geo_us: the answer says so; batch: native batch;
fast: `speed: fast`."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One factor on token prices. Of several that fit, the first counts."""

    case: Case
    provider: str
    factor: Decimal
    since: date
    """The first day (UTC) it holds."""
    source: str
    models: tuple[str, ...] = ()
    """First-party ids it is limited to; empty = all."""
    from_version: tuple[int, int] = (0, 0)
    """The first version of the models it holds for; a name without a version is taken to be newer."""
    estimated: bool = False
    """True where the price is approximate: no price page was seen."""


_PRICING = "https://platform.claude.com/docs/en/about-claude/pricing"
_FIRST_REGIONAL = (4, 5)
"""The premium came with Sonnet 4.5. Older models cost the same everywhere: Google's price page has one price for them, LiteLLM
no `regional_endpoint_uplift_multiplier`, the AWS price list the same figures in its regional rows as Anthropic's."""

RULES: tuple[Rule, ...] = (
    Rule(
        "regional", "vertex", Decimal("1.1"), date(2025, 9, 29),
        "genai-prices' notes on Google's price page: 'regional and multi-region endpoints carry a 10% premium'; "
        "LiteLLM 1.109.1 regional_endpoint_uplift_multiplier 1.1 on every Claude from 4.5 on, on none before",
        from_version=_FIRST_REGIONAL,
    ),
    Rule(
        "regional", "bedrock", Decimal("1.1"), date(2025, 9, 29),
        "AWS price list as quoted in genai-prices: geo profiles 10% over global; for those it does not name",
        from_version=_FIRST_REGIONAL, estimated=True,
    ),
    Rule(
        "us_gov", "bedrock", Decimal("1.2"), date(2024, 8, 1),
        "https://pricing.us-east-1.amazonaws.com/offers/v1.0/aws/AmazonBedrockFoundationModels/current/us-gov-west-1/"
        "index.json and us-gov-east-1, as LiteLLM 1.109.1 has their rows: 20% over the global price, for every kind of "
        "token, batch at half; also on bedrock-mantle",
        models=(
            "claude-3-haiku", "claude-3-5-sonnet", "claude-3-7-sonnet", "claude-haiku-4-5", "claude-sonnet-4-5",
            "claude-opus-4-8", "claude-sonnet-5", "claude-opus-5", "claude-fable-5-1", "claude-haiku-5-5",
            "claude-sonnet-5-5", "claude-opus-5-5",
        ),
    ),
    Rule(
        "us_gov", "bedrock", Decimal("1.2"), date(2024, 8, 1), "as for the models that the GovCloud lists name", estimated=True,
    ),
    Rule(
        "inference_geo_us", "anthropic", Decimal("1.1"), date(2026, 2, 1),
        "https://platform.claude.com/docs/en/manage-claude/data-residency (Opus 4.6 and later; earlier models refuse "
        "the parameter); https://docs.aws.amazon.com/claude-platform/latest/userguide/data-residency.html",
        from_version=(4, 6),
    ),
    Rule(
        "batch", "anthropic", Decimal("0.5"), date(2024, 10, 8),
        "https://platform.claude.com/docs/en/build-with-claude/batch-processing (the list has it from 2026-10-14 only)",
    ),
    Rule(
        "batch", "bedrock", Decimal("0.5"), date(2024, 8, 1),
        "https://aws.amazon.com/bedrock/pricing/ (batch inference at half the on-demand price)",
    ),
    Rule(
        "batch", "vertex", Decimal("0.5"), date(2025, 1, 1),
        "https://cloud.google.com/vertex-ai/generative-ai/pricing#claude-models (batch rates half of input and output, "
        "cache included, as quoted in genai-prices for Haiku 4.5 and Fable 5.2)",
    ),
    Rule(
        "fast", "anthropic", Decimal(6), date(2026, 2, 5),
        "https://platform.claude.com/docs/en/build-with-claude/fast-mode as it stood for Opus 4.6: 30/150 USD against "
        "5/25, and 60/225 above 200k tokens against 10/37.50",
        models=("claude-opus-4-6",),
    ),
    Rule(
        "fast", "anthropic", Decimal(6), date(2026, 4, 16),
        "taken to be as for Opus 4.6; removed 2026-07-24, its price page was not seen",
        models=("claude-opus-4-7",), estimated=True,
    ),
    Rule("fast", "anthropic", Decimal(2), date(2026, 5, 28), f"{_PRICING}#fast-mode-pricing, approximate",
         estimated=True),
    Rule("fast", "vertex", Decimal(2), date(2026, 5, 28), f"{_PRICING}#fast-mode-pricing, approximate",
         estimated=True),
)  # fmt: skip

SAME_PRICE: dict[str, str] = {
    "claude-mythos-5": "claude-fable-5",
    "claude-mythos-5-1": "claude-fable-5-1",
}
"""Models that genai-prices does not list and whose row in Anthropic's price table is that of another (pricing page)."""

CACHE_WRITE_1H_FACTOR = Decimal(2)
"""One-hour cache writes cost twice the input price, for lists that have no figure
(https://platform.claude.com/docs/en/build-with-claude/prompt-caching#pricing)."""

WEB_SEARCH_PER_1000 = Decimal(10)
"""USD per thousand server-side searches, for lists without a figure: Anthropic's, and Google's for Fable 5.2."""

LONG_CONTEXT_ENDED: dict[str, date] = {"claude-sonnet-4-5": date(2026, 4, 30)}
"""The day (UTC) on which a model's window went back to 200,000 tokens, and its prices for longer prompts ended: that of the
beta `context-1m-2025-08-07` (platform.claude.com, release notes). A list's price for prompts that no window holds is
otherwise never used: what is longer than the window is the sum of several passes."""

BILLED_REFUSALS = frozenset({"bio", "frontier_llm", "reasoning_extraction"})
"""Categories (`stop_details.category`) of refusals that are billed like any answer, though nothing was put out."""
FREE_REFUSALS = frozenset({"cyber", "general_harms", "unnamed"})
"""Categories of refusals that are free, where nothing was put out. An unknown category counts as free, as an estimate."""
REFUSALS_FREE_SINCE = date(2026, 6, 2)
"""The first day (UTC) on which a refusal before any output cost nothing
(https://platform.claude.com/docs/en/build-with-claude/refusals-and-fallback, of 2026-09-26: the same on all platforms)."""
