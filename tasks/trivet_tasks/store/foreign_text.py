"""Text that others wrote, made fit for a column."""


def clean(words: str | None, longest: int) -> str | None:
    """A provider's words as a column takes them: cut to length, without NUL (PostgreSQL) and lone surrogates (all)."""
    return None if words is None else words[:longest].replace("\0", "").encode("utf-8", "replace").decode("utf-8")
