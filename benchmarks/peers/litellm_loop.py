"""A LiteLLM Router in process, over one deployment, so many calls at a time. Runs in an environment of its own.

python litellm_loop.py --url URL
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from typing import Any

# its price list comes with the package; without this it is fetched from the network at import
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["LITELLM_LOG"] = "CRITICAL"

import litellm
from load import ATTEMPT_HEADER, MAX_TOKENS, MODEL, messages
from orders import serve


async def many(router: litellm.Router, jobs: int, in_flight: int) -> None:
    """Make this many calls, so many at a time."""
    numbers = iter(range(jobs))

    async def one_line() -> None:
        for number in numbers:
            answer = await router.acompletion(
                model="claude",
                messages=messages(number),
                max_tokens=MAX_TOKENS,
                extra_headers={ATTEMPT_HEADER: f"litellm-{number}"},
            )
            assert answer.choices[0].message.content

    await asyncio.gather(*(one_line() for _ in range(in_flight)))


def main() -> None:
    """Serve orders."""
    made = argparse.ArgumentParser(description="A LiteLLM Router in process.")
    made.add_argument("--url", required=True)
    arguments = made.parse_args()
    litellm.suppress_debug_info = True
    params = {"model": f"anthropic/{MODEL}", "api_base": arguments.url, "api_key": "simulated-key"}
    loop = asyncio.new_event_loop()
    router = litellm.Router(model_list=[{"model_name": "claude", "litellm_params": params}], num_retries=0)

    def run(jobs: int, in_flight: int) -> dict[str, Any]:
        start = time.perf_counter()
        loop.run_until_complete(many(router, jobs, in_flight))
        return {"seconds": time.perf_counter() - start}

    try:
        serve({"run": run})
    finally:
        os._exit(0)  # without waiting for LiteLLM's own threads


if __name__ == "__main__":
    main()
