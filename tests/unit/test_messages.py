"""What a message carries, and that an older worker's or scheduler's is understood."""

import json

import pytest
from tests.gates import MODEL

from trivet_tasks.latency import Latency
from trivet_tasks.messages import Chunk
from trivet_tasks.store.dispatching import Claimed

JOBS = (Claimed("a" * 32, 1, 10, 100), Claimed("b" * 32, 7, 20, 200))
CHUNK = Chunk("bedrock-us-east-1", "bedrock", Latency.BATCH, MODEL, JOBS)
PROBE = Chunk("bedrock-us-east-1", "bedrock", Latency.BATCH, MODEL, JOBS[:1], probe="0192f0c1token")


@pytest.mark.parametrize("chunk", [CHUNK, PROBE], ids=["jobs", "probe"])
def test_a_chunk_comes_back_as_it_was_sent(chunk: Chunk) -> None:
    sent = json.loads(json.dumps(chunk.to_args()))
    assert Chunk.from_args("bedrock", sent) == chunk


def test_only_a_probe_has_a_token() -> None:
    assert len(CHUNK.to_args()) == 4, "as workers have always known it"
    assert PROBE.to_args() == [
        *Chunk("bedrock-us-east-1", "bedrock", Latency.BATCH, MODEL, JOBS[:1]).to_args(),
        PROBE.probe,
    ]
    assert Chunk.from_args("bedrock", CHUNK.to_args()).probe == ""


def test_what_a_person_sees_of_a_message_has_no_ids_and_no_token() -> None:
    assert str(CHUNK) == f"(route=bedrock-us-east-1, class=batch, model={MODEL}, jobs=2)"
    assert str(PROBE) == f"(route=bedrock-us-east-1, class=batch, model={MODEL}, probe)"
