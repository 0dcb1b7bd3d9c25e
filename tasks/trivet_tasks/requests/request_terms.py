"""Trivet's own fields of a request: latency class, times, names and tags, each read from what people may write.

Also the key of requests that one answer may serve.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from hashlib import blake2b

import orjson

from trivet_tasks.config.settings import Settings
from trivet_tasks.latency import Latency
from trivet_tasks.requests.request_messages import check_text, kind, quoted, shown, wrong
from trivet_tasks.spans import span_s

YEAR_S = 365 * 86_400.0
MAX_KEY_CHARS = 250
MAX_TENANT_CHARS = 200
MAX_TAGS = 20
MAX_TAG_CHARS = 200
MAX_PLACES = 20

_CLASSES = {latency.value: latency for latency in Latency}
_CLASS_NAMES = "realtime, interactive, batch, async or deferred"
_MOMENTS = (
    'must be a span from now such as "90s", "5m" or "24h", seconds from now, '
    "or a moment in ISO 8601 such as 2026-12-01T18:00:00+01:00"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def read_latency(value: object) -> Latency:
    """The latency class; `batch` where none is given."""
    if value is None:
        return Latency.BATCH
    if isinstance(value, str) and value in _CLASSES:
        return _CLASSES[value]
    name = value.lower() if isinstance(value, str) and len(value) < 60 else ""
    near = get_close_matches(name, _CLASSES, n=1, cutoff=0.5)
    more = f" Did you mean {near[0]}?" if near else ""
    raise wrong("latency", f"must be {_CLASS_NAMES}, is {shown(value)}.{more}")


def read_times(
    given: Mapping[str, object], latency: Latency, settings: Settings, now: float
) -> tuple[float | None, float | None]:
    """`not_before` and `deadline_at`, seconds since the epoch."""
    not_before = _moment(given.get("not_before"), "not_before", now)
    if not_before is not None and latency is Latency.REALTIME:
        raise wrong("not_before", "does not go with latency realtime, whose time runs from submit.")
    if not_before is not None and not_before <= now:
        not_before = None
    deadline = _moment(given.get("deadline"), "deadline", now)
    if deadline is not None:
        if deadline <= now:
            raise wrong("deadline", "must lie in the future.")
        if not_before is not None and not_before >= deadline:
            raise wrong("not_before", "must lie before the deadline.")
        return not_before, deadline
    allowance = settings.of_class(latency).deadline_s
    return not_before, None if allowance is None else (not_before or now) + allowance


def _moment(value: object, field: str, now: float) -> float | None:
    """A point in time given as seconds from now, as a time span (`5m`), as a datetime or in ISO 8601."""
    if value is None:
        return None
    if isinstance(value, str) and value.strip()[-1:].isalpha() and (seconds := span_s(value)) is not None:
        if seconds > YEAR_S:
            raise wrong(field, f"must be at most a year from now (365d), is {quoted(value)}.")
        return now + seconds
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not 0 <= value <= YEAR_S:
            raise wrong(
                field,
                f"must be seconds from now, at most a year of them (31,536,000), is {kind(value)}. Give a moment as a datetime "
                "with its time zone, or in ISO 8601.",
            )
        return now + value
    if isinstance(value, str):
        given = value
        try:
            value = datetime.fromisoformat(given)
        except ValueError:
            raise wrong(field, f"{_MOMENTS}, is {quoted(given)}.") from None
    if not isinstance(value, datetime):
        raise wrong(field, f"{_MOMENTS}, is {kind(value)}.")
    if value.utcoffset() is None:
        raise wrong(field, "must name its time zone, as in 2026-12-01T18:00:00+01:00 or 2026-12-01T17:00:00Z.")
    moment = (value - _EPOCH).total_seconds()
    if moment > now + YEAR_S:
        raise wrong(field, "must lie at most a year ahead.")
    return moment


def read_name(value: object, field: str, longest: int) -> str | None:
    """A key or tenant: printable, 1 to `longest` characters."""
    return None if value is None else _one_name(value, field, longest)


def _one_name(value: object, field: str, longest: int) -> str:
    name = check_text(value, field)
    if len(name) > longest:
        raise wrong(field, f"must have 1 to {longest} characters, has {len(name):,}.")
    if not name.isprintable():
        raise wrong(field, "must be printable, without line breaks and control characters.")
    return name


def read_names(value: object, field: str) -> tuple[str, ...]:
    """One name or several, sorted and each once."""
    if value is None:
        return ()
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple | set | frozenset):
        raise wrong(field, f"must be a name or a list of names, is {kind(value)}.")
    if len(names) > MAX_PLACES:
        raise wrong(field, f"may hold at most {MAX_PLACES} names, holds {len(names):,}.")
    return tuple(sorted({_one_name(one, field, MAX_TAG_CHARS) for one in names}))


def read_tags(value: object) -> dict[str, str]:
    """At most 20 tags of at most 200 printable characters each."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise wrong("tags", f"must be an object of names and texts, is {kind(value)}.")
    if len(value) > MAX_TAGS:
        raise wrong("tags", f"may hold at most {MAX_TAGS} tags, holds {len(value):,}.")
    tags: dict[str, str] = {}
    for name, text in value.items():
        if not isinstance(name, str) or not name or len(name) > MAX_TAG_CHARS or not name.isprintable():
            raise wrong("tags", f"the name of a tag must be 1 to {MAX_TAG_CHARS} printable characters.")
        field = f"tags.{name}" if shown(name) == name else "tags"
        if not isinstance(text, str):
            raise wrong(field, f"must be a string, is {kind(text)}.")
        if len(text) > MAX_TAG_CHARS or not text.isprintable():
            raise wrong(field, f"must be at most {MAX_TAG_CHARS} printable characters, has {len(text):,}.")
        tags[name] = text
    return tags


def cache_terms(
    settings: Settings, latency: Latency, residency: Sequence[str], compliance: Sequence[str], tenant: str | None
) -> bytes | None:
    """Return what requests must have in common beside their words; None where their class keeps no answers.

    A tenant's answers serve nobody else unless the configuration says that all tenants share them. Residency is part of
    the key: an answer made elsewhere must not serve a job that is bound to a place. The version of the API is not: a
    body that two versions take means the same in both, and the body is in the fingerprint.
    """
    if not settings.of_class(latency).cache_ttl_s:
        return None
    return orjson.dumps([residency, compliance, None if settings.cache.shared else tenant])


def unkept_text(latency: Latency, settings: Settings) -> str:
    """Return a warning where a request asks for the cache and its class keeps no answers; empty where it does."""
    if settings.of_class(latency).cache_ttl_s:
        return ""
    return f"cache: has no effect, because [classes.{latency.value}] cache_ttl_s is 0."


def cache_key_of(fingerprint: str, terms: bytes) -> str:
    """Return 32 hex digits, equal for requests that one answer may serve. Model and whole body are in it by the
    fingerprint."""
    return blake2b(b"%b %b" % (fingerprint.encode(), terms), digest_size=16).hexdigest()
