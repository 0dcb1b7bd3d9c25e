"""The tokens of one provider call, by kind and, where it had several passes, by pass."""

from dataclasses import dataclass

CATEGORY_UNNAMED = "unnamed"
"""Of a refusal whose category the provider gives as null."""
CATEGORY_UNKNOWN = "unknown"
"""Of a refusal whose category the answer does not tell."""


@dataclass(frozen=True, slots=True)
class UsagePart:
    """One pass of a call that had several: an entry of `usage.iterations`. All counts are tokens."""

    kind: str
    """The provider's word: `message`, `compaction`, `advisor_message`, `fallback_message` or one yet to come."""
    model: str | None = None
    """The model that ran, as the provider names it; None: the one that answered."""
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    refused: str | None = None
    """See `Usage.refused`; of this pass alone."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Usage of a call as its provider states it. All counts are tokens unless named otherwise.

    `input_tokens` excludes what was read from or written to the prompt cache, as in the Messages API.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    web_searches: int = 0
    """Server-side searches, counted per request rather than per token."""
    service_tier: str | None = None
    inference_geo: str | None = None
    speed: str | None = None
    model: str | None = None
    """The model that answered, as the answer names it; None: it did not say."""
    refused: str | None = None
    """Set where the model refused before any output: the category, or `CATEGORY_UNNAMED`, or `CATEGORY_UNKNOWN`."""
    doubt: str | None = None
    """Reason for which these counts may not be what is billed; None: no reason to think so."""
    parts: tuple[UsagePart, ...] = ()
    """The passes whose sums the counts are, where there was more than one or another model took part."""

    @property
    def prompt_tokens(self) -> int:
        """All tokens of the prompt, cached or not: what long-prompt price tiers are reckoned by, pass by pass."""
        return self.input_tokens + self.cache_read_tokens + self.cache_write_5m_tokens + self.cache_write_1h_tokens
