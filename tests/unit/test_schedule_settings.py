"""`[[schedules]]`: what a configuration may say, and the command that a run becomes."""

from pathlib import Path

import pytest

from trivet_scheduler.scheduled_command import arguments
from trivet_store.schedule_runs import ClaimedRun, RunKey
from trivet_tasks.config.schedules import ScheduleSettings
from trivet_tasks.config.settings import Settings, load_settings
from trivet_tasks.errors import ConfigError

NIGHTLY = '[[schedules]]\nname = "nightly"\ncrontab = "30 6 * * mon-fri"\n'
BULK = f'{NIGHTLY}bulk = "mails.jsonl"\n'
AT = 1_796_103_000.0
"""2026-12-01T06:30:00 in Zurich."""


def read(folder: Path, text: str) -> Settings:
    path = folder / "trivet.toml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path)


def schedule(folder: Path, text: str) -> ScheduleSettings:
    (found,) = read(folder, text).schedules
    return found


def words(schedule: ScheduleSettings, *, by_hand: bool = False) -> list[str]:
    return arguments(schedule, ClaimedRun(RunKey(schedule.name, AT), by_hand))


def test_a_bulk_becomes_the_command_that_a_person_would_type(tmp_path: Path) -> None:
    found = schedule(
        tmp_path,
        BULK
        + 'timezone = "Europe/Zurich"\nmodel = "claude-haiku-4-5"\nmax_tokens = 50\nlatency = "async"\ncache = false\n'
        'tenant = "acme"\ntags = { team = "search" }\nprompt_cache = "5m"\ndedupe = "tenant"\nskip_bad = true\n'
        'out = "out/{name}/{time}.jsonl"\nwith_request = true\n',
    )
    assert words(found) == [
        *(
            "bulk",
            "--json",
            "--once",
            "--name",
            "nightly-2026-12-01T06:30",
            "--model",
            "claude-haiku-4-5",
            "--max-tokens",
            "50",
        ),
        *("--latency", "async", "--tenant", "acme", "--prompt-cache", "5m", "--dedupe", "tenant"),
        *("--out", "out/nightly/2026-12-01T0630.jsonl", "--tag", "team=search", "--no-cache", "--skip-bad"),
        *("--with-request", "--", "mails.jsonl"),
    ]
    assert words(found, by_hand=True)[4] == "nightly-2026-12-01T06:30:00"


def test_a_prune_and_a_report_become_their_commands(tmp_path: Path) -> None:
    prune = schedule(
        tmp_path,
        NIGHTLY + 'prune = true\nolder_than = "30d"\nattempts_older_than = "400d"\nkeep_results = true\n',
    )
    assert words(prune) == [
        *("db", "prune", "--json", "--older-than", "30d", "--attempts-older-than", "400d", "--keep-results"),
    ]
    report = schedule(tmp_path, NIGHTLY + 'report = "costs"\nby = "tenant"\nsince = "1d"\nout = "costs.csv"\n')
    assert words(report) == [
        *("costs", "--by", "tenant", "--since", "2026-11-30T05:30:00+00:00", "--until", "2026-12-01T05:30:00+00:00"),
        *("--csv", "-"),
    ]


def test_a_definition_is_known_by_its_digest(tmp_path: Path) -> None:
    first = schedule(tmp_path, BULK)
    assert schedule(tmp_path, BULK.replace("30 6 *", "30  6 *")).digest == first.digest
    assert schedule(tmp_path, BULK + "max_tokens = 5").digest != first.digest
    assert not schedule(tmp_path, BULK + "enabled = false").enabled


def test_other_times_are_the_same_work_and_another_zone_names_another_batch(tmp_path: Path) -> None:
    first = schedule(tmp_path, BULK)
    later = schedule(tmp_path, BULK.replace("30 6 *", "45 7 *") + 'missed = "once"\nenabled = false')
    assert (later.work_digest, later.digest) != (first.work_digest, first.digest)
    assert later.work_digest == first.work_digest
    for changed in ('timezone = "Europe/Zurich"', "max_tokens = 5", 'out = "o-{time}.jsonl"'):
        assert schedule(tmp_path, f"{BULK}{changed}\n").work_digest != first.work_digest


def test_paths_are_absolute_where_another_file_has_them(tmp_path: Path) -> None:
    assert schedule(tmp_path, BULK).definition(tmp_path)["bulk"] == str(tmp_path / "mails.jsonl")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (NIGHTLY, "[schedules] 0: nightly: has nothing to do; it needs exactly one of bulk, prune and report"),
        (BULK + "prune = true", "nightly: has bulk and prune; it needs exactly one"),
        (BULK + 'older_than = "3d"', "nightly: older_than goes with prune, not with bulk"),
        (BULK + "crontba = 5", "[schedules.0] crontba: unknown key. Did you mean crontab?"),
        (BULK.replace("30 6", "30 26"), "[schedules.0] crontab: hour '26': Invalid end range: 26 > 23"),
        (BULK + 'timezone = "Europe/Zürich"', "[schedules.0] timezone: 'Europe/Zürich' is no time zone; did you mean"),
        (BULK + 'latency = "quick"', "[schedules.0] latency: "),
        (BULK + 'missed = "always"', "[schedules.0] missed: "),
        (BULK + 'out = "r.jsonl"', "nightly: out needs {time}, or each run would replace the results of the last"),
        (BULK + 'out = "{user}.jsonl"', "nightly: out may have {name} and {time} in braces, and no others"),
        (BULK + 'out = "{time"', "nightly: out may have {name} and {time} in braces"),
        (BULK + "with_request = true", "nightly: with_request goes with out"),
        (BULK.replace("mails.jsonl", "-"), "nightly: bulk must name a file or a folder"),
        (BULK + BULK, "[schedules.1] name: another schedule is called 'nightly', too"),
        (BULK.replace('"nightly"', '"a b"'), "[schedules.0] name: "),
        (NIGHTLY + "prune = true", 'nightly: prune needs older_than, as in older_than = "30d"'),
        (
            NIGHTLY + 'prune = true\nolder_than = "30"',
            "[schedules.0] older_than: '30' is not a span of time with a unit",
        ),
        (
            NIGHTLY + 'prune = true\nolder_than = "30d"\nattempts_older_than = "1d"',
            "nightly: attempts_older_than must not be shorter than older_than",
        ),
        (NIGHTLY + 'report = "costs"', "nightly: report needs out, a file that ends with .csv, .json, .html"),
        (NIGHTLY + 'report = "money"\nout = "r.csv"', "[schedules.0] report: "),
    ],
)
def test_what_is_wrong_is_named_with_its_entry(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, text)
    assert said in str(error.value)
