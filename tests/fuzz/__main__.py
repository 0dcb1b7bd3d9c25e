"""Fuzz the three response readers through the adapters' public call: python -m tests.fuzz [--seconds 600] [--seed N]

Every answer comes from one seed, counted up; a finding says which. Ends with 1 at the first finding.
"""

import argparse
import asyncio
import itertools
import logging
import os
import random
import resource
import sys
import time

from tests.fuzz.answers import check, fed
from tests.wires import BODY, KEY, KEY_VARIABLE, MODELS, WIRES, fed_wire, settings_of

from trivet_worker.adapters import build_caller
from trivet_worker.adapters.protocol import CallLimits

MAX_GROWTH_MB = 400


def _memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def run(seconds: float, seed: int) -> int:
    """Call until the time is over. Returns the exit code."""
    os.environ[KEY_VARIABLE] = KEY
    logging.disable(logging.WARNING)  # every unknown refusal is one
    until, told, before = time.monotonic() + seconds, time.monotonic(), _memory_mb()
    async with fed_wire() as provider:
        callers = {
            (wire, streams): build_caller(settings_of(wire, provider.url, stream=streams))
            for wire in WIRES
            for streams in (False, True)
        }
        for number in itertools.count(seed):
            rng = random.Random(number)
            wire, streams = rng.choice(list(callers))
            answer = fed(wire, rng, streams=streams)
            provider.reply = answer.reply
            try:
                result = await callers[wire, streams].call(BODY, MODELS[wire], f"attempt-{number}", CallLimits(10))
                check(result, answer)
            except Exception as error:
                print(f"seed {number}, {wire}, streams={streams}: {error!r}\n{answer.reply!r}", file=sys.stderr)  # noqa: T201
                return 1
            if _memory_mb() > before + MAX_GROWTH_MB:
                print(f"seed {number}: memory grew by over {MAX_GROWTH_MB} MB", file=sys.stderr)  # noqa: T201
                return 1
            if time.monotonic() > min(until, told + 30):
                told = time.monotonic()
                print(f"{number - seed + 1:,} answers, {_memory_mb():,.0f} MB", flush=True)  # noqa: T201
            if time.monotonic() > until:
                break
        for caller in callers.values():
            await caller.close()
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    given = parser.parse_args()
    sys.exit(asyncio.run(run(given.seconds, given.seed)))
