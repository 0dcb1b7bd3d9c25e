"""Keeps secrets out of texts that are shown: the errors of SDKs may hold a key."""

import contextlib
import os
import re
from dataclasses import replace
from typing import Any

from trivet.live_check.report import Finding, Reading
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.config.server_urls import masked
from trivet_tasks.errors import ConfigError
from trivet_tasks.foreign_text import clean, for_terminal

WORDS_LIMIT = 300
"""A provider's own words are cut after so many characters."""
SHORTEST = 8
"""In words of our own a shorter secret is no secret but a placeholder, and may be part of a plain word."""
_VARIABLES = (
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "AWS_BEARER_TOKEN_BEDROCK",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
)
# patterns of keys that are not known here: Anthropic's, Bedrock's, Google's, a header, a PEM
_LIKE_A_KEY = re.compile(
    r"sk-ant-[\w-]+|ABSK[\w+/=-]{8,}|bedrock-api-key-[\w+/=-]+|ya29\.[\w.-]+|(?i:bearer) [\w.+/=~-]{12,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)",
    re.DOTALL,
)


class Mask:
    """Strikes secrets out of texts. `add` secrets as they become known; safe to share between threads."""

    def __init__(self, route: RouteSettings) -> None:
        """Know the route's own key and those of the environment."""
        self._secrets = {os.environ[name].strip() for name in _VARIABLES if os.environ.get(name, "").strip()}
        for reference in filter(None, (route.api_key, route.admin_api_key)):
            with contextlib.suppress(ConfigError):  # told as a finding elsewhere
                self._secrets.add(reference.resolve())

    def add(self, *secrets: str | None) -> None:
        """Strike these out, too."""
        self._secrets |= {secret for secret in secrets if secret}

    def text(self, text: str, *, shortest: int = SHORTEST) -> str:
        """The text without secrets and passwords. Secrets under `shortest` characters stay."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            if len(secret) >= shortest:
                text = text.replace(secret, "[secret]")
        return for_terminal(masked(_LIKE_A_KEY.sub("[secret]", text)))

    def words(self, error: object) -> str:
        """Return an exception's first paragraph on one line, masked, then cut. AWS puts the signed text after it."""
        said = self.text(str(error).strip().split("\n\n", 1)[0], shortest=1)
        said = clean(" ".join(said.split()), 4 * WORDS_LIMIT) or type(error).__name__
        return said if len(said) <= WORDS_LIMIT else f"{said[: WORDS_LIMIT - 1]}…"

    def finding(self, finding: Finding) -> Finding:
        """The finding without secrets."""
        texts: dict[str, Any] = {name: self.text(getattr(finding, name)) for name in ("what", "where", "action")}
        return replace(finding, **texts)

    def reading(self, reading: Reading) -> Reading:
        """The reading without secrets in what is shown of it."""
        models = {
            name: replace(state, reason=self.text(state.reason), action=self.text(state.action))
            for name, state in reading.models.items()
        }
        return replace(reading, models=models, findings=tuple(map(self.finding, reading.findings)))
