"""Rules of a request's conversation: the form of its messages and content blocks, and of values in errors.

What is refused here the API would refuse too, as of its version 2026-10-21
(platform.claude.com/docs/en/api/migration-2026-10-21). No error made here or in the modules built on this one holds a
value of the request, other than numbers and short plain names.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from trivet_tasks.errors import InvalidRequest

MAX_MESSAGES = 100_000
"""A limit of the Messages API (anthropic 2.12.0, `types/message_create_params.py`)."""
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@/-]{0,59}")
"""Text that an error may repeat: it looks like a name."""

_FIGURE = re.compile(
    r"[+-]?\d[\d.,_]{0,20} ?(%|[a-z]|ms|min|(sec|second|minute|hour|day|week|month)s?)?"
    r"|\d{4}-\d\d?-\d\d?([T ][\d:.]{1,15}(Z|[+-][\d:]{1,5})?)?"
    r"|true|false|yes|no|on|off|none|null",
    re.IGNORECASE,
)
"""Text that reads like a number, a span of time, a moment or a truth value."""

_NEEDED: Mapping[str, tuple[str, ...]] = {
    "image": ("source",),
    "document": ("source",),
    "tool_use": ("id", "name", "input"),
    "tool_result": ("tool_use_id",),
}


def wrong(field: str, what: str) -> InvalidRequest:
    """The error for one field: `what` says what is wrong and what is allowed, as a sentence without its subject."""
    return InvalidRequest(f"{field}: {what}", field=field)


def kind(value: object) -> str:
    """Describe a value as an error may show it: a number as it is, of everything else only the kind and length."""
    if isinstance(value, str):
        return f"a string of {len(value):,} characters" if value else "empty"
    if value is None:
        return "missing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) < 10**15 else "a number of more than 15 digits"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return "a list"
    return "an object" if isinstance(value, Mapping) else f"of the Python type {type(value).__name__}"


def shown(value: object) -> str:
    """A value of a field that takes one of a few names: itself if it is a short plain name, else what it is.

    Never for a field that may hold a text of the user, who may have put one word there.
    """
    return value if isinstance(value, str) and PLAIN_NAME.fullmatch(value) else kind(value)


def quoted(value: object) -> str:
    """A value of a field that takes a number, a truth value or a time: a text that reads like one as it is, in quotes, which
    tell it from a number; of any other only what it is, for it may be a word of the user's."""
    return f'"{value}"' if isinstance(value, str) and _FIGURE.fullmatch(value) else kind(value)


def check_text(text: object, field: str) -> str:
    """The text, checked to have more than white space in it, which the API wants of every text."""
    if not isinstance(text, str):
        raise wrong(field, f"must be a string, is {kind(text)}.")
    if not text or text.isspace():
        raise wrong(field, "must not be empty." if not text else "must hold more than white space.")
    return text


def check_block_text(text: object, field: str) -> None:
    """Check the text of one block of several: not empty, but maybe white space."""
    if not isinstance(text, str) or not text:
        check_text(text, field)


def check_messages(messages: object, *, prefill: bool | None) -> None:
    """Check the conversation. `prefill` False: the model does not go on from a last message of the assistant.

    Raises:
        InvalidRequest: naming the message and block.
    """
    if not isinstance(messages, list | tuple):
        more = " Plain text goes under prompt." if isinstance(messages, str) else ""
        raise wrong("messages", f"must be a list of messages, is {kind(messages)}.{more}")
    if not messages:
        raise wrong("messages", "must not be empty.")
    if len(messages) > MAX_MESSAGES:
        raise wrong("messages", f"may hold at most {MAX_MESSAGES:,} messages, holds {len(messages):,}.")
    final = len(messages) - 1
    for index, message in enumerate(messages):
        _check_message(message, f"messages[{index}]", first=index == 0, final=index == final)
    last = messages[-1]
    if prefill is False and last["role"] == "assistant" and _only_text(last["content"]):
        raise wrong(
            f"messages[{final}].role",
            "the last message must be the user's: this model does not continue a text of the assistant (prefill).",
        )


def is_whole_answer(message: object) -> bool:
    """Return whether a message is a whole answer of the API, of which a turn has only `role` and `content`."""
    return isinstance(message, dict) and message.get("type") == "message" and message.get("role") == "assistant"


def _check_message(message: object, field: str, *, first: bool, final: bool) -> None:
    if not isinstance(message, dict):
        raise wrong(field, f"must be an object with role and content, is {kind(message)}.")
    role = message.get("role")
    if not isinstance(role, str) or role not in ("user", "assistant", "system"):
        raise wrong(f"{field}.role", f"must be user or assistant, is {shown(role)}.")
    if len(message) > 2 and is_whole_answer(message):
        raise wrong(field, "is a whole answer; give its role and content.")
    if "content" not in message:
        raise wrong(f"{field}.content", "is missing.")
    content = message["content"]
    if not isinstance(content, str | list | tuple):
        raise wrong(f"{field}.content", f"must be a string or a list of blocks, is {kind(content)}.")
    if not content and _may_be_empty(message, role, final=final):
        return
    if first and role == "system":
        raise wrong(f"{field}.role", "the first message may not be of role system. A system prompt goes under system.")
    if isinstance(content, str):
        check_text(content, f"{field}.content")
    else:
        _check_blocks(content, f"{field}.content")


def _may_be_empty(message: dict[object, object], role: str, *, final: bool) -> bool:
    """The last turn of the assistant may be empty; one of the system that only sets `output_config` has no text."""
    return (role == "assistant" and final) or (role == "system" and message.get("output_config") is not None)


def _check_blocks(content: list[object] | tuple[object, ...], field: str) -> None:
    if not content:
        raise wrong(field, "must not be empty.")
    for index, block in enumerate(content):
        _check_block(block, f"{field}[{index}]")
    # the API wants text in a message, not in each of its blocks: an answer with white space between two blocks goes back
    check_some_text(content, field)


def check_some_text(blocks: Sequence[object], field: str) -> None:
    """Check that blocks are not all text of nothing but white space. Each block has been checked by itself."""
    for block in blocks:
        if not isinstance(block, dict) or block.get("type") != "text" or not str(block.get("text")).isspace():
            return
    if blocks:
        raise wrong(f"{field}[0].text", "must hold more than white space, or another block of the message must.")


def _only_text(content: object) -> bool:
    """A turn that ended in a server tool (`pause_turn`) may be sent back as it is: it is not all text."""
    return isinstance(content, str) or (
        isinstance(content, list | tuple) and all(block.get("type") == "text" for block in content)
    )


def _check_block(block: object, field: str) -> None:
    if not isinstance(block, dict):
        raise wrong(field, f"must be an object with a type, is {kind(block)}.")
    name = block.get("type")
    if not isinstance(name, str) or not name:
        raise wrong(f"{field}.type", f"must be a name such as text, is {kind(name)}.")
    if name == "text":
        check_block_text(block.get("text"), f"{field}.text")
        cited = block.get("citations")
        if cited is not None and not isinstance(cited, list | tuple):
            raise wrong(f"{field}.citations", f"must be a list, is {kind(cited)}.")
        return
    for needed in _NEEDED.get(name, ()):
        if block.get(needed) is None:
            raise wrong(f"{field}.{needed}", f"is missing from a block of type {name}.")
    if name in ("image", "document"):
        _check_source(block["source"], f"{field}.source")


def _check_source(source: object, field: str) -> None:
    if not isinstance(source, dict):
        raise wrong(field, f"must be an object with a type, is {kind(source)}.")
    form = source.get("type")
    if not isinstance(form, str) or not form:
        raise wrong(f"{field}.type", f"must be a name such as base64, is {kind(form)}.")
    for name in {"base64": ("media_type", "data"), "url": ("url",), "file": ("file_id",)}.get(form, ()):
        value = source.get(name)
        if not isinstance(value, str) or not value:
            raise wrong(f"{field}.{name}", f"must be a string that is not empty, is {kind(value)}.")


def content_blocks(body: Mapping[str, object]) -> Iterator[dict[str, object]]:
    """Every content block of a checked body: system, messages, and those inside tool results and documents."""
    messages, system = body.get("messages"), body.get("system")
    waiting: list[object] = [] if system is None or isinstance(system, str) else [system]
    if isinstance(messages, list | tuple):
        for message in messages:
            if isinstance(message, dict) and not isinstance(content := message.get("content"), str):
                waiting.append(content)
    while waiting:
        blocks = waiting.pop()
        if isinstance(blocks, dict):
            blocks = [blocks]
        if not isinstance(blocks, list | tuple):
            continue
        for block in blocks:
            if isinstance(block, dict):
                yield block
                waiting.append(block.get("content"))
                source = block.get("source")
                if isinstance(source, dict):
                    waiting.append(source.get("content"))
