"""The Python example as it is, and the lines that people type with curl."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.gateway_clients.running import RunningGateway

EXAMPLE = Path(__file__).parents[2] / "examples" / "gateway_client.py"
RUN_S = 150
MESSAGE = (
    'curl -sS "$ANTHROPIC_BASE_URL/v1/messages" -H "x-api-key: $ANTHROPIC_API_KEY" -H "anthropic-version: 2023-06-01" '
    '-H "content-type: application/json" '
)
COUNTED = {"model": "claude-haiku-4-5", "messages": [{"role": "user", "content": "Say hello."}]}
BODY = {**COUNTED, "max_tokens": 50}


def environment(gateway: RunningGateway) -> dict[str, str]:
    """Return the two variables of which `trivet serve` prints the lines, on top of the test's own."""
    return {**os.environ, "ANTHROPIC_BASE_URL": gateway.url, "ANTHROPIC_API_KEY": gateway.keys["free"]}


def curl(gateway: RunningGateway, line: str) -> str:
    """Run a line of a shell and return what it printed."""
    shell = ["sh", "-c", line]
    done = subprocess.run(shell, env=environment(gateway), timeout=RUN_S, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_example_runs(gateway: RunningGateway) -> None:
    gateway.trivet.reply("Hello to you.")
    command = [sys.executable, str(EXAMPLE), "Say hello."]
    done = subprocess.run(command, env=environment(gateway), timeout=RUN_S, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    counted, message, route, streamed = done.stdout.splitlines()
    assert re.fullmatch(r"\d+ tokens", counted)
    assert message == streamed == "Hello to you."
    assert re.fullmatch(r"by [\w-]+ for \$\d+(\.\d+)?", route)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not on the PATH")
class TestCurl:
    """Lines of a shell."""

    def test_a_message(self, gateway: RunningGateway) -> None:
        gateway.trivet.reply("Hello to you.")
        answer = json.loads(curl(gateway, f"{MESSAGE} -d '{json.dumps(BODY)}'"))
        assert answer["content"][0]["text"] == "Hello to you."

    def test_a_stream(self, gateway: RunningGateway) -> None:
        gateway.trivet.reply("Hello to you.")
        lines = curl(gateway, f"{MESSAGE} -N -d '{json.dumps({**BODY, 'stream': True})}'").splitlines()
        events = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
        assert (events[0], events[-1]) == ("message_start", "message_stop")

    def test_a_job_for_later(self, gateway: RunningGateway) -> None:
        answer = json.loads(curl(gateway, f"{MESSAGE} -H 'x-trivet-latency: batch' -d '{json.dumps(BODY)}'"))
        assert answer["url"] == f"/trivet/v1/jobs/{answer['id']}"

    def test_without_a_key(self, gateway: RunningGateway) -> None:
        line = f"{MESSAGE} -d '{json.dumps(BODY)}'".replace("x-api-key", "x-other")
        answer = json.loads(curl(gateway, f"{line} -w '\\n%{{http_code}}'").rpartition("\n")[0])
        assert answer["error"]["type"] == "authentication_error"

    def test_models_and_a_count(self, gateway: RunningGateway) -> None:
        key = '-H "x-api-key: $ANTHROPIC_API_KEY"'
        listed = json.loads(curl(gateway, f'curl -sS "$ANTHROPIC_BASE_URL/v1/models" {key}'))
        assert "claude-haiku-4-5" in {model["id"] for model in listed["data"]}
        counting = MESSAGE.replace("/v1/messages", "/v1/messages/count_tokens")
        assert json.loads(curl(gateway, f"{counting} -d '{json.dumps(COUNTED)}'"))["input_tokens"] > 0
