"""`trivet plan`, through the real command: its output, and its messages on mistakes."""

import gzip
import io
import json
import os
import re
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import orjson
import pytest
from tests.command_line import run_trivet

from trivet.cli import run
from trivet.cli.options import count, share
from trivet.cli.plan import read_charge, read_mix
from trivet.plan.terms import Charge, Per
from trivet_tasks.errors import InvalidRequest

ROUTES = """
[routes.direct]
provider = "anthropic"
requests_per_minute = 500

[routes.aws-us]
provider = "bedrock"
region = "us-east-1"
residency = ["us"]
output_tokens_per_minute = 100_000
output_token_factor = 5
[routes.aws-us.costs]
per_month_usd = 21.90
per_gb_out_usd = 0.01
"""
# 3 and 15 dollars per million tokens; 10 % more on aws-us, which stays in its geography
VOLUME = ("--model", "claude-sonnet-4-6", "--tokens-per-day", "10M", "--input-share", "0.6")
CALLS = (*VOLUME, "--tokens-per-call", "2000")
AUDIT = ("--cost", "audit logging=2/100000 calls")


Plan = Callable[..., "Done"]


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in os.environ:
        if name.startswith("TRIVET_"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trivet.toml").write_text(ROUTES, encoding="utf-8")
    return tmp_path


@pytest.fixture
def plan(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Plan:
    """The command, run in this process; it leaves nothing behind."""

    def run_plan(*arguments: str) -> Done:
        before = set(folder.iterdir())
        monkeypatch.setattr(sys, "argv", ["trivet", "plan", *arguments])
        capsys.readouterr()
        code = run()
        said = capsys.readouterr()
        assert set(folder.iterdir()) == before, "no database is needed"
        return Done(code, said.out, said.err)

    return run_plan


def reckoned(plan: Plan, *arguments: str) -> dict[str, Any]:
    done = plan(*arguments, "--json")
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def refused(plan: Plan, *arguments: str) -> str:
    done: Done = plan(*arguments)
    assert (done.code, done.out) == (2, ""), done.out
    return done.err


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)) + b"\n")
    return path


# --- a volume


def test_each_route_alone_and_all_together_side_by_side(plan: Plan) -> None:
    found = reckoned(plan, *CALLS, *AUDIT)
    direct, aws, both = found["scenarios"]
    assert [one["name"] for one in found["scenarios"]] == ["direct", "aws-us", "even mix"]
    assert (direct["calls"], direct["input_usd"], direct["output_usd"]) == ("5000", "18", "60")
    assert (direct["day_usd"], direct["month_usd"]) == ("78.1", "2343")
    # 1.1 * 78, an audit of 10 cents, 0.021 GB at a cent, 21.90 dollars a month
    assert (aws["day_usd"], aws["month_usd"]) == ("86.63021", "2598.9063")
    assert [(one["name"], one["route"], one["day_usd"]) for one in aws["hidden"]] == [
        ("data out", "aws-us", "0.00021"),
        ("fixed", "aws-us", "0.73"),
        ("audit logging", None, "0.1"),
    ]
    assert both["day_usd"] == "82.730105"  # 39 + 42.90 + 0.10 + half of the data + 0.73
    assert direct["time"] == {
        "seconds": "600", "route": "direct", "model": "claude-sonnet-4-6", "limit": "requests", "figure": "500",
    }  # fmt: skip
    # 4,000,000 tokens that count as 5 each
    assert (aws["time"]["limit"], aws["time"]["seconds"]) == ("output tokens", "12000")
    assert both["time"]["route"] == "aws-us"


def test_mixes_and_a_month_of_other_length(plan: Plan) -> None:
    mixes = ("--mix", "direct=0.7,aws-us=30%", "--mix", "direct=1")
    first, second = reckoned(plan, *CALLS, *mixes, "--days-per-month", "31")["scenarios"]
    assert (first["name"], first["shares"]) == ("mix", {"direct": "0.7", "aws-us": "0.3"})
    assert first["input_usd"] == "18.54"  # 12.60 + 5.94
    assert (second["name"], second["month_usd"]) == ("direct", "2418")


@pytest.mark.parametrize("columns", [60, 80, None])
def test_the_table_fits_and_says_all_sums(folder: Path, columns: int | None) -> None:
    done = run_trivet("plan", *CALLS, *AUDIT, env={} if columns is None else {"COLUMNS": str(columns)})
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    if columns is not None:
        assert max(map(len, lines)) <= columns
    rows = [re.split(r"  +", line) for line in lines if line.startswith(("SCENARIO", "direct", "aws-us", "even mix  "))]
    cells = dict(zip(rows[0], zip(*rows[1:4], strict=True), strict=True))
    assert cells["DAY"] == ("$78.10", "$86.63", "$82.73")
    assert cells["MONTH"] == ("$2,343.00", "$2,598.91", "$2,481.90")
    assert cells["CALLS"] == ("5,000",) * 3
    hidden = {"HIDDEN"} if columns == 60 else {"PER CALL", "DATA OUT", "FIXED"}
    assert hidden <= cells.keys()
    for said in (
        "500 requests/min",
        "100,000 output tokens/min",
        "3 h 20 min",
        "MONTH is 30 days",
        "even mix: 50 % direct, 50 % aws-us.",
        "A call has 2,000 tokens: 1,200 of input, 800 of output.",
        "audit logging, $2.00 per 100,000 calls: $0.10",
        "fixed of aws-us, $21.90 per month: $0.73",
    ):
        assert said in done.out, said


def test_a_day_that_takes_longer_than_a_day_is_said(plan: Plan) -> None:
    done = plan("--model", "claude-sonnet-4-6", "--tokens-per-day", "1B", "--input-share", "60%", "--mix", "aws-us=1")
    assert "aws-us: a day's work takes more than a day" in done.out


def test_without_the_calls_requests_are_not_looked_at_and_it_says_so(plan: Plan) -> None:
    found = reckoned(plan, *VOLUME, "--mix", "direct=1")
    (direct,) = found["scenarios"]
    assert (direct["calls"], direct["day_usd"], direct["time"]["limit"]) == (None, "78", "calls in flight")
    assert any("--tokens-per-call" in one for one in found["assumptions"])


def test_bytes_per_token_can_be_set_and_are_said(plan: Plan) -> None:
    found = reckoned(plan, *VOLUME, "--mix", "aws-us=1", "--bytes-per-token", "5")
    assert found["scenarios"][0]["hidden"][0]["day_usd"] == "0.0003"  # 0.03 GB
    assert any("5 bytes for each input token" in one for one in found["assumptions"])


# --- a file


def test_a_file_is_reckoned_as_expected_and_at_most(plan: Plan, folder: Path) -> None:
    rows = [
        {"prompt": "x" * 3_500, "model": "claude-sonnet-4-6", "max_tokens": 1_000, "key": f"k{number % 3}"}
        for number in range(4)
    ]
    file = write(folder / "work.jsonl", *rows, {"prompt": "Hi", "residency": "us"})
    given = (str(file), "--model", "claude-haiku-5-5", "--max-tokens", "200", "--output-share-of-max", "0.3")
    found = reckoned(plan, *given, "--runs-per-day", "2")
    direct, aws, both = found["scenarios"]
    assert direct["obstacle"] == "2 calls of claude-haiku-5-5: direct lacks residency us"
    assert aws["calls"] == both["calls"] == "8"  # three of the four, and the one of Haiku, twice
    assert aws["output_tokens"] == "1920"  # 0.3 * 2 * (3 * 1,000 + 200)
    assert (aws["at_most"]["output_tokens"], both["at_most"]["output_tokens"]) == ("6400", "6400")
    # at most 6,000 of Sonnet at 16.50, 400 of Haiku at 0.55 dollars per million
    assert aws["at_most"]["output_usd"] == "0.09922"
    (sonnet,) = (part for part in aws["parts"] if part["model"] == "claude-sonnet-4-6")
    body = len(orjson.dumps({"messages": [{"role": "user", "content": "x" * 3_500}], "max_tokens": 1_000}))
    assert sonnet["bytes_out"] == str(6 * body)
    text = plan(*given).out
    for said in (
        "direct: not possible. 1 call of claude-haiku-5-5: direct lacks residency us.",
        "DAY MAX", "MONTH MAX", "TIME MAX", "4 requests.", "1 of its lines repeat", "30 % of its max_tokens",
    ):  # fmt: skip
        assert said in text, said


def test_a_file_without_a_word_on_answers_is_the_most_it_can_be(plan: Plan, folder: Path) -> None:
    file = write(folder / "work.jsonl", {"prompt": "Hi", "model": "claude-sonnet-4-6", "max_tokens": 1_000})
    found = reckoned(plan, str(file))
    assert found["scenarios"][0]["at_most"] is None
    assert found["scenarios"][0]["output_usd"] == "0.015"
    assert any("the most it can be" in one for one in found["assumptions"])
    assert reckoned(plan, str(file), "--output-tokens", "200")["scenarios"][0]["output_usd"] == "0.003"


def test_a_bad_line_is_named_and_can_be_left_out(plan: Plan, folder: Path) -> None:
    file = write(
        folder / "work.jsonl", {"prompt": "Hi"}, {"prompt": "Hi", "model": "claude-sonnet-4-6", "max_tokens": 9}
    )
    said = refused(plan, str(file))
    assert "work.jsonl, line 1: model: is missing" in said
    assert "--model gives one" in said
    assert any("1 bad lines" in one for one in reckoned(plan, str(file), "--skip-bad")["assumptions"])


# --- mistakes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "There is nothing to plan."),
        (("work.jsonl", *VOLUME), "Give a file or --tokens-per-day, not both."),
        (("work.jsonl", "--tokens-per-call", "5"), "--tokens-per-call: means nothing for a file."),
        ((*VOLUME, "--output-tokens", "5"), "--output-tokens: means nothing for a volume."),
        (VOLUME[:4], "--input-share: is missing."),
        (VOLUME[2:], "--model: is missing."),
        (("work.jsonl",), "work.jsonl: no such file."),
        ((*VOLUME, *AUDIT), "audit logging: is charged by the call, and the number of calls is not known."),
        ((*CALLS, "--mix", "dircet=1"), "--mix: no route is called 'dircet'. Did you mean direct?"),
        ((*CALLS, "--mix", "direct=0.5,aws-us=0.4"), "--mix: the shares sum to 0.9, not to 1."),
        ((*CALLS, "--cost", "audit=2"), "--cost: 'audit=2' must read NAME=USD/UNIT"),
        ((*CALLS, "--cost", "nix:audit=2/month"), "--cost: no route is called 'nix'."),
        ((*CALLS, "--model", "claude-mythos-preview", "--mix", "direct=1"), "no price is known for claude-mythos-preview on direct"),
        ((*CALLS, "--model", "claude-mythos-preview"), "No scenario can be reckoned."),
        ((*CALLS, "--model", "claude-sonet-5-5"), "no such model: claude-sonet-5-5. Did you mean"),
    ],
)  # fmt: skip
def test_what_is_said_of_mistakes(plan: Plan, arguments: tuple[str, ...], said: str) -> None:
    assert said in refused(plan, *arguments)


def test_without_routes_it_says_what_to_do(plan: Plan, folder: Path) -> None:
    (folder / "trivet.toml").write_text("", encoding="utf-8")
    assert "`trivet config init` proposes some" in refused(plan, *CALLS)


# --- quantities


@pytest.mark.parametrize(
    ("given", "number"), [("10M", 10**7), ("2.5k", 2_500), ("1_000", 1_000), ("1,000", 1_000), ("1.5B", 15 * 10**8)]
)
def test_numbers(given: str, number: int) -> None:
    assert count("--x", given) == number


@pytest.mark.parametrize("given", ["", "ten", "-1", "0", "1e9", "M", "1" * 40, "nan"])
def test_what_is_no_number_is_said_to_be_none(given: str) -> None:
    with pytest.raises(InvalidRequest, match="--x"):
        count("--x", given)


@pytest.mark.parametrize(("given", "part"), [("0.6", "0.6"), ("60%", "0.6"), (".5", "0.5"), ("1", "1"), ("0", "0")])
def test_shares(given: str, part: str) -> None:
    assert share("--x", given) == Decimal(part)


@pytest.mark.parametrize("given", ["", "1.1", "101%", "-0.1", "half", "."])
def test_what_is_no_share_is_said_to_be_none(given: str) -> None:
    with pytest.raises(InvalidRequest, match="--x"):
        share("--x", given)


def test_a_mix_reads_route_by_route() -> None:
    assert read_mix("a=0.7, b = 30%") == {"a": Decimal("0.7"), "b": Decimal("0.3")}
    for bad in ("", "a", "a=0.5,a=0.5", "=1"):
        with pytest.raises(InvalidRequest, match="--mix"):
            read_mix(bad)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("audit=2/100000 calls", Charge("audit", Per.CALL, Decimal(2), Decimal(100_000))),
        ("audit=$2/100k calls", Charge("audit", Per.CALL, Decimal(2), Decimal(100_000))),
        ("a b=.5/call", Charge("a b", Per.CALL, Decimal("0.5"))),
        ("nat=0.045/GB", Charge("nat", Per.GB_OUT, Decimal("0.045"))),
        ("r1:endpoint = 21.90 / month", Charge("endpoint", Per.MONTH, Decimal("21.90"), route="r1")),
    ],
)
def test_a_hidden_cost_reads_as_people_say_it(given: str, expected: Charge) -> None:
    assert read_charge(given, {"r1": None}) == expected


@pytest.mark.parametrize(
    "given", ["", "audit", "audit=2/week", "audit=two/call", "=2/call", "audit=2/0 calls", "x:a=1/call"]
)
def test_what_is_no_hidden_cost_is_said_to_be_none(given: str) -> None:
    with pytest.raises(InvalidRequest, match="--cost"):
        read_charge(given, {"r1": None})


def test_a_plan_takes_standard_input_gzip_and_lines_of_anthropics_batches(
    plan: Plan, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = {"model": "claude-sonnet-4-6", "max_tokens": 100, "messages": [{"role": "user", "content": "Hello"}]}
    file = folder / "requests.jsonl.gz"
    file.write_bytes(
        gzip.compress(b"".join(orjson.dumps({"custom_id": f"{n}", "params": params}) + b"\n" for n in range(9)))
    )
    by_file = reckoned(plan, str(file))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(file.read_bytes())))
    by_pipe = reckoned(plan, "-")
    assert by_file["scenarios"] == by_pipe["scenarios"]
    assert by_file["scenarios"][0]["calls"] == "9"
    assert any(said.startswith("standard input runs once a day: 9 requests.") for said in by_pipe["assumptions"])


def test_without_a_configuration_it_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("TRIVET_"):
            monkeypatch.delenv(name)
    said = run_trivet("plan", *VOLUME, cwd=tmp_path)
    assert said.code == 2
    assert "There is no configuration" in said.err
    assert tmp_path.name in said.err


# --- advice, and the loss of routes


def shared(folder: Path) -> Path:
    rules = "Every letter is answered on the day it came. " * 500
    rows = [
        {
            "prompt": f"Letter {n % 30}",
            "system": rules,
            "model": "claude-sonnet-4-6",
            "max_tokens": 100,
            "tenant": "ann",
        }
        for n in range(40)
    ]
    return write(folder / "letters.jsonl", *rows, *[{**rows[0], "residency": "us", "latency": "async"}] * 3)


def test_advice_is_told_with_amounts_and_changes(plan: Plan, folder: Path) -> None:
    file = str(shared(folder))
    found = reckoned(plan, file, "--mix", "aws-us=1")["advice"]
    assert found["scenario"] == "aws-us"
    items = {one["kind"]: one for one in found["items"]}
    assert {"repeated requests", "prompt cache", "model"} <= items.keys()
    cached = items["prompt cache"]
    assert Decimal(cached["month_usd"]) == 30 * Decimal(cached["day_usd"])
    assert "43 requests of a run share a prefix" in cached["finding"]
    text = plan(file, "--mix", "aws-us=1").out
    for said in ("Advice, USD a day on aws-us", "--prompt-cache 5m of `trivet bulk`", "Each is reckoned alone"):
        assert said in text, said


def test_without_each_route_a_row_says_time_limit_cost_and_who_waits(plan: Plan, folder: Path) -> None:
    file = str(shared(folder))
    whole, direct, aws = reckoned(plan, file, "--without-each")["without"]
    assert (whole["name"], direct["name"], aws["lost"]) == (None, "direct", ["aws-us"])
    assert (whole["waiting_calls"], direct["waiting_calls"], aws["waiting_calls"]) == ("0", "0", "3")
    assert aws["time"]["route"] == "direct"
    (waiting,) = aws["waiting"]
    assert (waiting["residency"], waiting["by_class"], waiting["by_tenant"]) == (["us"], {"async": "3"}, {"ann": "3"})
    assert waiting["reasons"] == {"direct": "lacks residency us"}
    assert reckoned(plan, file)["without"] == []
    text = plan(file, "--without-each").out
    assert "Without aws-us, no route takes 3 calls of claude-sonnet-4-6 with residency us. By class: async 3." in text
    assert "By tenant: ann 3." in text


@pytest.mark.parametrize("columns", [80, 100, 120])
def test_advice_and_losses_fit_the_terminal(folder: Path, columns: int) -> None:
    done = run_trivet("plan", str(shared(folder)), "--without-each", env={"COLUMNS": str(columns)})
    assert (done.code, done.err) == (0, "")
    assert max(map(len, done.out.splitlines())) <= columns
    heading = next(line for line in done.out.splitlines() if line.startswith("WITHOUT"))
    assert heading.split()[:2] == ["WITHOUT", "TIME"]
    assert heading.split()[-3:] == ["DAY", "CHANGE", "WAITING"]


def test_a_volume_has_advice_and_losses_too(plan: Plan) -> None:
    found = reckoned(plan, *CALLS, "--without-each")
    assert {one["kind"] for one in found["advice"]["items"]} == {"model"}
    assert [one["name"] for one in found["without"]] == [None, "direct", "aws-us"]
    unknown = reckoned(plan, *VOLUME, "--mix", "direct=1", "--without-each")["without"][1]
    assert (unknown["waiting_calls"], unknown["waiting"][0]["calls"]) == (None, None)
    assert "no route is left" in plan(*VOLUME, "--mix", "direct=1", "--without-each").out
