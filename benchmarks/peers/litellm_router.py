"""A LiteLLM Router under the failover benchmark's load. Runs in an environment of its own, without Trivet.

    python litellm_router.py --setup cooldown --leg anthropic=URL --leg bedrock=URL --leg vertex=URL --token-url URL …

Prints {"ready": …} once each leg has answered one call, reads the moment to begin (seconds since the epoch) as a line
from stdin, sends jobs at a fixed rate, and prints one line: every job, and every call it made by leg.
The first leg is the primary. What each setup sets, and where LiteLLM documents it, stands in `SETUPS`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from importlib import metadata
from typing import Any

# its price list comes with the package; without this it is fetched from the network at import
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["LITELLM_LOG"] = "CRITICAL"

import litellm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from litellm.integrations.custom_logger import CustomLogger

DOCUMENTED = "https://docs.litellm.ai/docs/router/learn/reliability"
"""Retries, fallbacks, order and cooldowns; the arguments are in /docs/router/api_reference/configuration."""

SETUPS: dict[str, dict[str, Any]] = {
    # Each leg a model group of its own, and fallbacks from the primary to the others; nothing else. 2 retries, a
    # timeout of 6,000 s, and no cooldown of a group's only deployment, are its defaults.
    "as-it-comes": {"shape": "fallbacks"},
    # A deployment rests 30 s after its second failure in a minute. No retries: the next leg is asked at once.
    "cooldown": {"shape": "fallbacks", "timed": True, "allowed_fails": 1, "cooldown_time": 30, "num_retries": 0},
    # The same with its default number of retries on each leg.
    "cooldown+retries": {
        "shape": "fallbacks",
        "timed": True,
        "allowed_fails": 1,
        "cooldown_time": 30,
        "num_retries": 2,
    },
    # All legs in one group, ranked by `order`: the lowest that is not resting is asked, then the next; and retries.
    "ordered+retries": {"shape": "order", "timed": True, "allowed_fails": 1, "cooldown_time": 30, "num_retries": 2},
}
GROUP = "claude"
PROMPT = "Sum up page {n} in one sentence."
MAX_TOKENS = 64


class CallCount(CustomLogger):  # type: ignore[misc]  # not installed where types are checked
    """Notes every call to a provider: when, and to which leg."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[float, str]] = []

    def log_pre_api_call(self, model: str, messages: list[Any], kwargs: dict[str, Any]) -> None:  # noqa: ARG002
        """LiteLLM is about to call a provider."""
        info = (kwargs.get("litellm_params") or {}).get("model_info") or {}
        self.calls.append((time.time(), str(info.get("id"))))


def service_account(token_url: str) -> str:
    """Credentials of a made-up Google service account whose tokens the simulator hands out."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    account = {
        "type": "service_account",
        "project_id": "simulated",
        "private_key_id": "simulated",
        "private_key": pem.decode(),
        "client_email": "bench@simulated.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": token_url,
    }
    return json.dumps(account)


def params_of(wire: str, url: str, token_url: str) -> dict[str, Any]:
    """LiteLLM's settings for one wire of the simulator."""
    match wire:
        case "anthropic":
            return {"model": "anthropic/claude-haiku-4-5", "api_base": url, "api_key": "simulated-key"}
        case "bedrock":
            return {
                "model": "bedrock/invoke/anthropic.claude-haiku-4-5-v1:0",
                "aws_bedrock_runtime_endpoint": url,
                "aws_access_key_id": "simulated",
                "aws_secret_access_key": "simulated",
                "aws_region_name": "us-east-1",
            }
        case "vertex":
            return {
                "model": "vertex_ai/claude-haiku-4-5",
                "api_base": url.removesuffix("/v1"),  # LiteLLM puts it back
                "vertex_project": "simulated",
                "vertex_location": "global",
                "vertex_credentials": service_account(token_url),
            }
    raise ValueError(f"no such wire: {wire}")


def make_router(setup: str, legs: dict[str, dict[str, Any]], timeout_s: float) -> tuple[litellm.Router, str]:
    """The Router of a setup, and the model name that jobs ask for."""
    options = dict(SETUPS[setup])
    shape = options.pop("shape")
    if options.pop("timed", False):
        options["timeout"] = timeout_s
    names = list(legs)
    if shape == "order":
        models = [
            {"model_name": GROUP, "litellm_params": {**params, "order": place}, "model_info": {"id": name}}
            for place, (name, params) in enumerate(legs.items(), 1)
        ]
        return litellm.Router(model_list=models, **options), GROUP
    models = [
        {"model_name": name, "litellm_params": params, "model_info": {"id": name}} for name, params in legs.items()
    ]
    return litellm.Router(model_list=models, fallbacks=[{names[0]: names[1:]}], **options), names[0]


async def one_job(router: litellm.Router, model: str, number: int, job: dict[str, Any]) -> None:
    """Run one job and fill in what became of it."""
    messages = [{"role": "user", "content": PROMPT.format(n=number)}]
    job["submitted"] = time.time()
    try:
        answer = await router.acompletion(model=model, messages=messages, max_tokens=MAX_TOKENS)
        job["ok"] = bool(answer.choices[0].message.content)
        job["leg"] = answer._hidden_params.get("model_id")
    except Exception as error:
        job["error"] = type(error).__name__
    job["ended"] = time.time()


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """The whole run; returns what is printed."""
    litellm.suppress_debug_info = True
    count = CallCount()
    litellm.callbacks = [count]
    legs = {
        name: params_of(name, url, arguments.token_url)
        for name, _, url in (leg.partition("=") for leg in arguments.leg)
    }
    for params in legs.values():  # clients, signing and tokens are loaded at the first call
        await litellm.acompletion(
            **params, messages=[{"role": "user", "content": "Are you there?"}], max_tokens=MAX_TOKENS
        )
    router, model = make_router(arguments.setup, legs, arguments.timeout)
    print(json.dumps({"ready": True, "version": metadata.version("litellm")}), flush=True)
    line = await asyncio.to_thread(sys.stdin.readline)
    start = float(line)
    jobs: list[dict[str, Any]] = []
    tasks: list[asyncio.Task[None]] = []
    for number in range(round(arguments.rate * arguments.seconds)):
        await asyncio.sleep(max(0.0, start + number / arguments.rate - time.time()))
        job: dict[str, Any] = {"submitted": time.time(), "ended": None, "ok": False, "leg": None, "error": None}
        jobs.append(job)
        tasks.append(asyncio.create_task(one_job(router, model, number, job)))
    _, hanging = await asyncio.wait(tasks, timeout=arguments.patience)
    for task in hanging:
        task.cancel()
    unanswered = [job for job in jobs if job["ended"] is None]
    for job in unanswered:
        job["error"] = "no answer"
    cpu = time.process_time()
    return {"jobs": jobs, "calls": [{"at": at, "leg": leg} for at, leg in count.calls], "cpu_s": cpu}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description="A LiteLLM Router under the failover benchmark's load.")
    made.add_argument("--setup", choices=tuple(SETUPS), required=True)
    made.add_argument("--leg", action="append", required=True, metavar="WIRE=URL", help="the first is the primary")
    made.add_argument("--token-url", required=True, help="where the simulator hands out Google tokens")
    made.add_argument("--rate", type=float, required=True, help="jobs a second")
    made.add_argument("--seconds", type=float, required=True, help="how long jobs are sent")
    made.add_argument("--timeout", type=float, required=True, help="seconds a call may take, where the setup sets it")
    made.add_argument("--patience", type=float, required=True, help="seconds to wait for the last jobs")
    return made


def main() -> None:
    """Run, print, and leave without waiting for LiteLLM's own threads."""
    found = asyncio.run(run(parser().parse_args()))
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
