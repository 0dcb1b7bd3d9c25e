"""What genai-prices leaves out of its lists: our own small, dated table. Data only; `prices` applies it.

A rule holds only where the list has no figure of its own for the case, so nothing is counted twice the day the list
learns it. All factors apply to tokens, never to web searches. Change a line here and `RULES_VERSION` with it:
the version is stored with every attempt, so that records can be priced again.
"""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Literal, TypeAlias

RULES_VERSION = "2026-11"

Case: TypeAlias = Literal["regional", "inference_geo_us", "batch", "fast"]
"""regional: served in one geography; inference_geo_us: the answer says so; batch: native batch; fast: `speed: fast`."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One factor on token prices. Of several that fit, the first counts."""

    case: Case
    provider: str
    factor: Decimal
    since: date
    """The first day (UTC) it holds."""
    source: str
    checked: date
    models: tuple[str, ...] = ()
    """First-party ids it is limited to; empty = all."""
    except_models: tuple[str, ...] = ()
    estimated: bool = False
    """True where no price page was seen, only a likeness."""


_PRICING = "https://platform.claude.com/docs/en/about-claude/pricing"
_CHECKED = date(2026, 11, 22)
_BEFORE_REGIONAL = ("claude-opus-4-1", "claude-opus-4-0", "claude-sonnet-4-0")  # the premium came with Sonnet 4.5

RULES: tuple[Rule, ...] = (
    Rule(
        "regional", "vertex", Decimal("1.1"), date(2025, 9, 29),
        "genai-prices' notes on Google's price page: 'regional and multi-region endpoints carry a 10% premium'; "
        "LiteLLM 1.109.1 regional_endpoint_uplift_multiplier 1.1", _CHECKED,
        except_models=_BEFORE_REGIONAL,
    ),
    Rule(
        "regional", "bedrock", Decimal("1.1"), date(2025, 9, 29),
        "AWS price list as quoted in genai-prices: geo profiles 10% over global; for those it does not name", _CHECKED,
        except_models=_BEFORE_REGIONAL, estimated=True,
    ),
    Rule(
        "inference_geo_us", "anthropic", Decimal("1.1"), date(2026, 2, 1),
        "https://platform.claude.com/docs/en/manage-claude/data-residency (Opus 4.6 and later; earlier models refuse "
        "the parameter); https://docs.aws.amazon.com/claude-platform/latest/userguide/data-residency.html", _CHECKED,
    ),
    Rule(
        "batch", "anthropic", Decimal("0.5"), date(2024, 10, 8),
        "https://platform.claude.com/docs/en/build-with-claude/batch-processing (the list has it from 2026-10-14 only)",
        _CHECKED,
    ),
    Rule(
        "batch", "bedrock", Decimal("0.5"), date(2024, 8, 1),
        "https://aws.amazon.com/bedrock/pricing/ (batch inference at half the on-demand price)", _CHECKED,
    ),
    Rule(
        "batch", "vertex", Decimal("0.5"), date(2025, 1, 1),
        "https://cloud.google.com/vertex-ai/generative-ai/pricing#claude-models (batch rates half of input and output, "
        "cache included, as quoted in genai-prices for Haiku 4.5 and Fable 5.2)", _CHECKED,
    ),
    Rule(
        "fast", "anthropic", Decimal(6), date(2026, 2, 5),
        "https://platform.claude.com/docs/en/build-with-claude/fast-mode as it stood for Opus 4.6: 30/150 USD against "
        "5/25, and 60/225 above 200k tokens against 10/37.50", _CHECKED,
        models=("claude-opus-4-6",),
    ),
    Rule(
        "fast", "anthropic", Decimal(6), date(2026, 4, 16),
        "taken to be as for Opus 4.6; removed 2026-07-24, its price page was not seen", _CHECKED,
        models=("claude-opus-4-7",), estimated=True,
    ),
    Rule("fast", "anthropic", Decimal(2), date(2026, 5, 28), f"{_PRICING}#fast-mode-pricing, by likeness", _CHECKED,
         estimated=True),
    Rule("fast", "vertex", Decimal(2), date(2026, 5, 28), f"{_PRICING}#fast-mode-pricing, by likeness", _CHECKED,
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
