"""Faults that the Messages API finds in a request that looks well formed: 400, worded as its answers are."""

from __future__ import annotations

from trivet_simulator.replies import Row, invalid_everywhere

_BLOCK = "messages.0.content.0"

REQUEST_FAULTS: dict[str, Row] = {
    "pdf_too_many_pages": invalid_everywhere(
        "a PDF has too many pages", f"{_BLOCK}.pdf.source.base64.data: A maximum of 600 PDF pages may be provided."
    ),
    "pdf_password": invalid_everywhere(
        "a PDF is protected by a password",
        f"{_BLOCK}.pdf.source.base64.data: The PDF specified is password protected.",
    ),
    "pdf_invalid": invalid_everywhere(
        "a PDF cannot be read", f"{_BLOCK}.pdf.source.base64.data: The PDF specified was not valid."
    ),
    "image_media_type": invalid_everywhere(
        "an image is not of the type it says",
        f"{_BLOCK}.image.source.base64.data: Image does not match the provided media type image/png",
    ),
    "schema_unsupported": invalid_everywhere(
        "the JSON schema of the answer has a keyword that is not supported",
        "output_config.format.schema: For 'object' type, 'additionalProperties' must be explicitly set to false",
    ),
    "tool_name_pattern": invalid_everywhere(
        "a tool has a name that is not allowed",
        "tools.0.custom.name: String should match pattern '^[a-zA-Z0-9_-]{1,128}$'",
    ),
    "too_many_cache_marks": invalid_everywhere(
        "more than four cache marks", "A maximum of 4 blocks with cache_control may be provided. Found 5."
    ),
    "cache_ttl_order": invalid_everywhere(
        "a cache mark of an hour comes after one of five minutes",
        f"{_BLOCK}.cache_control.ttl: a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block.",
    ),
    "thinking_with_forced_tool": invalid_everywhere(
        "thinking together with a forced tool", "Thinking may not be enabled when tool_choice forces tool use."
    ),
    "tool_ids_not_unique": invalid_everywhere(
        "two tool calls have the same id", "messages.1.content.1: `tool_use` ids must be unique"
    ),
    "max_tokens_too_large": invalid_everywhere(
        "more output is asked for than the model writes",
        "The maximum tokens you requested exceeds the model limit of 64000. Try again with a maximum tokens value that is "
        "lower than 64000.",
    ),
}
"""By name of the fault."""
