"""Generated requests against a real gateway: no status 500, and every answer as the OpenAPI document has it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from tests.gateway_server import gateway

from trivet.testing import RunningTrivet, running_trivet

TEST_S = 25
"""Seconds for which requests are generated, beside those of the examples."""
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "ignored_auth",
)
REQUEST = {"model": "claude-haiku-4-5", "max_tokens": 10, "messages": [{"role": "user", "content": "Say yes."}]}
CONFIG = """
[[operations]]
include-path-regex = "/trivet/v1/jobs/"
parameters = {{ "path.id" = "{job}" }}
[[operations]]
include-path-regex = "/trivet/v1/batches/"
parameters = {{ "path.name" = "known" }}
[[operations]]
include-path-regex = "/trivet/v1/routes/"
parameters = {{ "path.name" = "anthropic" }}
"""
"""Names of what there is: requests with invented ones end at 404."""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTrivet]:
    """A Trivet of the test's own: generated requests pause batches and drain routes."""
    with running_trivet(tmp_path_factory.mktemp("conformance")) as running:
        yield running


def test_every_answer_is_as_the_document_says(alone: RunningTrivet, tmp_path: Path) -> None:
    key = alone.admin.keys.create("root", admin=True).token.text
    with gateway(alone, tmp_path) as url, httpx2.Client(base_url=url, headers={"x-api-key": key}, timeout=60) as client:
        job = client.post("/trivet/v1/jobs", json=REQUEST).json()["id"]
        body = json.dumps(REQUEST).encode()
        client.post("/trivet/v1/batches", params={"name": "known"}, content=body).raise_for_status()
        config = tmp_path / "schemathesis.toml"
        config.write_text(CONFIG.format(job=job))
        command = [
            *(
                str(Path(sys.executable).with_name("schemathesis")),
                "--config-file",
                str(config),
                "run",
                f"{url}/openapi.json",
            ),
            *("--header", f"x-api-key: {key}", "--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing"),
            *(
                "--max-time",
                str(TEST_S),
                "--max-examples",
                "5",
                "--generation-deterministic",
                "--request-timeout",
                "30",
            ),
            *("--exclude-path", "/trivet/v1/events", "--continue-on-failure", "--no-color"),  # events have no end
        ]
        hooks = {"SCHEMATHESIS_HOOKS": "tests.schemathesis_hooks", "PYTHONPATH": str(Path(__file__).parents[2])}
        run = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, **hooks}, capture_output=True, text=True, timeout=240, check=False
        )
    assert run.returncode == 0, run.stdout[-6_000:] + run.stderr[-2_000:]
    assert " 0 generated" not in run.stdout
