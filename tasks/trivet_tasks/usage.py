"""The tokens of one provider call, by kind."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """What the provider says a call used. All counts are tokens unless named otherwise.

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

    @property
    def prompt_tokens(self) -> int:
        """All tokens of the prompt, cached or not: what long-prompt price tiers are reckoned by."""
        return self.input_tokens + self.cache_read_tokens + self.cache_write_5m_tokens + self.cache_write_1h_tokens
