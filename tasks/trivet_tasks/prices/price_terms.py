"""Terms that a call was priced by beside its tokens, as its row keeps them: enough to price it again."""

import json
from functools import lru_cache
from typing import NamedTuple

from trivet_tasks.usage import Usage

NOTED = '{"note":'
"""Start of the text of a call that is unpriced, or priced approximately: the text says why."""

_CHARS = 60
_USUAL = frozenset({"standard", "default", "global", "not_available"})
"""Words of the usage that ask for no price of their own; most calls have nothing else, so they are left out."""


class Terms(NamedTuple):
    """Arguments of `PriceBook.price` beside model and tokens; words are the provider's."""

    region: str | None = None
    """The route's, when the call was made."""
    web_searches: int = 0
    service_tier: str | None = None
    inference_geo: str | None = None
    speed: str | None = None
    refused: str | None = None
    doubt: str | None = None


def written(region: str | None, usage: Usage, note: str = "") -> str:
    """The terms as text for the row: JSON, with what is usual left out.

    Args:
        note: why there is no price, or why it is approximate.
    """
    terms = Terms(
        region,
        usage.web_searches,
        usage.service_tier,
        usage.inference_geo,
        usage.speed,
        usage.refused,
        usage.doubt,
    )
    return _written(terms, note)


@lru_cache(maxsize=1024)
def _written(terms: Terms, note: str) -> str:
    found: dict[str, object] = {"note": note} if note else {}
    for name, value in terms._asdict().items():
        if value and value not in _USUAL:
            found[name] = value[:_CHARS] if isinstance(value, str) else value
    if terms.region:  # `global` is one of Vertex's
        found["region"] = terms.region
    return json.dumps(found, separators=(",", ":"))  # in ASCII: a stream may bring halves of characters


@lru_cache(maxsize=1024)
def read(text: str) -> Terms:
    """The terms of a row. What a newer Trivet wrote beside them is passed over."""
    found = json.loads(text)
    return Terms(**{name: found[name] for name in Terms._fields if name in found})
