"""Product code tested against replies of its own: through the whole system, on both databases."""

import json
import threading
from typing import Any

import pytest
from pydantic import BaseModel

from trivet.testing import ErrorReply, ModelRequest, RunningTrivet
from trivet_simulator import ControlError

MODEL = "claude-haiku-4-5"


def ask(system: RunningTrivet, prompt: str, **fields: Any) -> Any:
    job = system.client.submit(prompt, model=MODEL, max_tokens=200, **fields)
    return job.result(timeout=60)


class Invoice(BaseModel):
    number: int
    total: float | None


def test_a_function_decides_by_the_request(system: RunningTrivet) -> None:
    def reply(request: ModelRequest) -> str | None:
        return "Twelve." if "invoice 7" in request.text else None

    with system.reply(reply) as scripted:
        assert ask(system, "What does invoice 7 say?").text == "Twelve."
        other = ask(system, "And invoice 8?")
        assert other.succeeded
        assert other.text != "Twelve."
        (first, second) = scripted.requests
        assert (first.text, first["max_tokens"]) == ("What does invoice 7 say?", 200)
        assert first["model"].startswith(MODEL)  # some wires name the model's date
        assert first.provider in ("anthropic", "bedrock", "vertex")
        assert first.attempt
        assert second.text == "And invoice 8?"
    assert ask(system, "What does invoice 7 say?").text != "Twelve."


def test_every_kind_of_reply(system: RunningTrivet) -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"z": 1, "a": 2}}
    replies: dict[str, Any] = {
        "blocks": [{"type": "text", "text": " "}, call],
        "message": {"content": "Cut", "stop_reason": "max_tokens", "usage": {"output_tokens": 200}},
        "refusal": ErrorReply("refusal", category="bio"),
    }
    with system.reply(lambda request: replies[request.text]):
        blocks = ask(system, "blocks")
        assert (blocks.message["content"], blocks.stop_reason) == (replies["blocks"], "tool_use")
        cut = ask(system, "message")
        assert (cut.text, cut.stop_reason, cut.usage["output_tokens"]) == ("Cut", "max_tokens", 200)
        refusal = ask(system, "refusal")
        assert (refusal.stop_reason, refusal.message["stop_details"]["category"]) == ("refusal", "bio")


def test_an_answer_goes_back_as_the_next_request_has_it(system: RunningTrivet) -> None:
    content = [
        {"type": "text", "text": "\n"},
        {"type": "tool_use", "id": "t", "name": "look", "input": {"z": 1, "a": 2}},
    ]
    tools = [{"name": "look", "input_schema": {"type": "object"}}]
    with system.reply(lambda request: content if len(request["messages"]) == 1 else "Done.") as scripted:
        first = {"role": "user", "content": "Look."}
        answer = ask_messages(system, [first], tools)
        result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "found"}]}
        assert ask_messages(system, [first, answer.message, result], tools).text == "Done."
        assert scripted.requests[-1]["messages"] == [first, {"role": "assistant", "content": content}, result]


def ask_messages(system: RunningTrivet, messages: list[Any], tools: list[Any]) -> Any:
    job = system.client.submit(messages=messages, tools=tools, model=MODEL, max_tokens=200)
    return job.result(timeout=60)


def test_an_error_for_one_document_only(system: RunningTrivet) -> None:
    """The first two calls fail, a third route or a second round serves it."""
    system.reply(ErrorReply("overloaded"), contains="document 3", times=2)
    batch = system.client.submit_many(
        [{"key": str(n), "prompt": f"document {n}"} for n in range(6)], model=MODEL, max_tokens=50, latency="batch"
    )
    results = {result.key: result for result in batch.results(timeout=60)}
    assert {result.status for result in results.values()} == {"succeeded"}
    assert [a.outcome for a in results["3"].attempts].count("overloaded") == 2


def test_json_of_a_pydantic_model(system: RunningTrivet) -> None:
    result = ask(system, "Read it.", output_format=Invoice)
    Invoice.model_validate_json(result.text)


def test_a_function_that_raises_fails_its_job_and_is_shown(system: RunningTrivet) -> None:
    def broken(request: ModelRequest) -> str:
        raise LookupError(f"no such document: {request.text}")

    def use() -> None:
        with system.reply(broken):
            result = ask(system, "SECRET")
            assert result.status == "failed"
            assert "the reply function failed: LookupError" in result.error.message
            assert "SECRET" not in result.error.message

    with pytest.raises(LookupError, match="no such document: SECRET"):
        use()
    assert ask(system, "Again").succeeded


@pytest.mark.parametrize("value", [5, object(), {1, 2}])
def test_what_is_no_reply_is_said_to_be_none(system: RunningTrivet, value: Any) -> None:
    with pytest.raises(TypeError, match="a reply is a text"):
        system.reply(value)


def test_a_bad_error_is_named(system: RunningTrivet) -> None:
    with pytest.raises(ControlError, match="must be a fault of the catalogue"):
        system.reply(ErrorReply("no such thing"))


def test_a_function_that_is_too_slow(system: RunningTrivet) -> None:
    until = threading.Event()

    def slow(_: ModelRequest) -> str:
        until.wait(60)
        return "late"

    scripted = system.reply(slow, timeout_s=0.2)
    try:
        result = ask(system, "x")
    finally:
        until.set()
    scripted.close()
    assert result.status == "failed"
    assert "no answer within 0.2 s" in result.error.message
    assert json.dumps(result.error.message)
