"""kill -9 of anything, at random."""

from pathlib import Path

from tests.chaos.conftest import MAIN
from tests.chaos.producer import Plan, accepted_path, done_path
from tests.chaos.running import BULK, REALTIME, SCHEDULERS, Chaos
from tests.chaos.storm import Storm

EVERY_S = 1.5
KILLS = 6


def test_a_kill_storm_loses_nothing_and_doubles_nothing(chaos: Chaos, seed: int) -> None:
    plan = Plan("storm", MAIN.tag, batches=6, size=50, realtime=12, pace_s=1.0)
    config = Path(chaos.settings.source)
    chaos.latency(0.5, 1.0)
    chaos.start_producer("producer", *plan.words())
    try:
        with Storm(chaos, (*BULK, REALTIME, *SCHEDULERS, "producer"), every_s=EVERY_S, seed=seed, most=KILLS) as storm:
            chaos.wait_for(done_path(config, plan.name).exists, "the producer's last job")
            accepted = accepted_path(config, plan.name).read_text(encoding="ascii").split()
            chaos.wait_ended(accepted)
    finally:
        chaos.local.supervisor.end("producer", 5)
    found = chaos.settle(accepted)
    assert found.good, found
    assert found.jobs == plan.total, "a job was accepted twice, or never"
    assert storm.kills.total() >= KILLS / 2
