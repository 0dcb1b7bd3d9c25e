"""The suite runs alike under every parent, and so does the command."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.processes import under
from tests.surroundings import SIGNALS, clean_environment

REPOSITORY = Path(__file__).parents[2]
DEADLINE_S = 60.0
HOSTILE = {
    **dict.fromkeys(("CI", "NO_COLOR", "FORCE_COLOR", "PYTHONOPTIMIZE", "PYTHONWARNINGS"), "1"),
    "COLUMNS": "20",
    "LINES": "2",
    "TERM": "vt100",
    "TZ": "Pacific/Kiritimati",
    "LC_ALL": "C",
    "LANG": "tr_TR",
    "PYTHONIOENCODING": "ascii",
    "HOME": "/nonexistent",
    "XDG_CACHE_HOME": "/",
    "TRIVET_STORE__URL": "postgresql://nobody@127.0.0.1:1/none",
    "TRIVET_CONFIG": "/nonexistent.toml",
    "ANTHROPIC_API_KEY": "sk-x",
    "ANTHROPIC_BASE_URL": "http://127.0.0.1:1",
    "AWS_PROFILE": "x",
    "AWS_REGION": "x",
    "GOOGLE_CLOUD_PROJECT": "x",
    "GOOGLE_APPLICATION_CREDENTIALS": "/x",
    "CELERY_BROKER_URL": "amqp://127.0.0.1:1",
    "HTTP_PROXY": "http://127.0.0.1:1",
    "https_proxy": "http://127.0.0.1:1",
    "ALL_PROXY": "x",
    "NO_PROXY": "x",
    "FLOWER_PORT": "1",
    "OTEL_TRACES_EXPORTER": "otlp",
    "SSL_CERT_FILE": "/x",
    "PGHOST": "x",
    "REDIS_URL": "x",
}
LOOK = """
import json, os, resource, signal, sys, time
def mask():
    old = os.umask(0)
    os.umask(old)
    return old
print(json.dumps({
    "ignored": [n for n in signal.Signals if signal.getsignal(n) == signal.SIG_IGN],
    "blocked": list(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    "closed": [n for n in (0, 1, 2) if not os.path.exists(f"/dev/fd/{n}")],
    "mask": mask(),
    "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    "zone": time.strftime("%Z"),
    "environment": dict(os.environ),
}))
"""
SETTLED = f"""
import subprocess, sys
from tests.surroundings import settle
settle()
settle()
open({str(Path(os.devnull))!r}, encoding=None).close()
done = subprocess.run([sys.executable, "-c", {LOOK!r}], stdout=subprocess.PIPE, text=True, check=True)
with open(sys.argv[1], "w") as out:
    out.write(done.stdout)
subprocess.run([sys.executable, "-c", "import sys; sys.exit(3)"]).returncode == 3 or sys.exit("the code of a child is lost")
with open(sys.argv[1] + ".text", "w") as out:
    out.write("ü")
"""
PYTHONS_OWN = [signal.SIGPIPE, *([signal.SIGXFSZ] if hasattr(signal, "SIGXFSZ") else [])]


def test_what_a_test_starts_is_the_same_under_every_parent(tmp_path: Path) -> None:
    plain, hostile = tmp_path / "plain", tmp_path / "hostile"
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, {resource.getrlimit(resource.RLIMIT_NOFILE)[1]})); {SETTLED}"
    for command, environment in (
        ([sys.executable, "-c", SETTLED, str(plain)], {}),
        (
            under(
                [sys.executable, "-c", limited, str(hostile)],
                ignored=[*SIGNALS, signal.SIGCHLD], blocked=[*SIGNALS, signal.SIGCHLD], closed=[0, 1, 2], umask=0o077,
            ),
            HOSTILE,
        ),
    ):  # fmt: skip
        needed = {"PATH": os.environ["PATH"], "TMPDIR": os.environ["TMPDIR"]}
        subprocess.run(
            command, cwd=REPOSITORY, env=needed | environment, start_new_session=True, check=True, timeout=DEADLINE_S
        )
    seen, again = json.loads(plain.read_text()), json.loads(hostile.read_text())
    for found in (seen, again):
        for name in ("HOME", "PYTEST_HOME"):  # of a run's own, and gone with it
            assert not Path(found["environment"].pop(name)).exists()
    assert seen == again
    assert (seen["ignored"], seen["blocked"], seen["closed"]) == (PYTHONS_OWN, [], [])
    assert (seen["mask"], seen["zone"], seen["files"]) == (0o022, "UTC", resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    assert hostile.with_suffix(".text").read_text(encoding="utf-8") == "ü"


def test_only_named_variables_reach_a_test() -> None:
    kept = clean_environment(HOSTILE | {"PATH": "/bin", "CHAOS_SEED": "7", "NEW_THING": "x"}, "/home", "/tmp")
    assert kept == {
        "PATH": "/bin", "CHAOS_SEED": "7", "HOME": "/home", "TMPDIR": "/tmp", "TZ": "UTC", "LANG": "C.UTF-8"
    }  # fmt: skip
    assert not {*HOSTILE} & {*os.environ} - {"HOME", "TZ", "LANG"}


def trivet(config: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "trivet", "--config", str(config), *arguments]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A Trivet without a broker, with one job in it whose key is not ASCII."""
    file = tmp_path / "trivet.toml"
    file.write_text('[redis]\nurl = "redis://127.0.0.1:1/0"\n[routes.anthropic]\nprovider = "anthropic"\n')
    request = tmp_path / "requests.jsonl"
    request.write_text(
        '{"prompt": "Hello", "key": "Zürich…", "model": "claude-sonnet-5-5", "max_tokens": 10}\n', "utf-8"
    )
    subprocess.run(trivet(file, "bulk", str(request)), check=True, capture_output=True, timeout=DEADLINE_S)
    return file


def test_output_is_utf8_whatever_the_locale(config: Path) -> None:
    for variables in (
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ):
        for form in ((), ("--json",)):
            done = subprocess.run(
                trivet(config, "job", "list", *form),
                env=os.environ | variables,
                capture_output=True,
                timeout=DEADLINE_S,
            )
            assert (done.returncode, done.stderr) == (0, b"")
            assert "Zürich…" in done.stdout.decode("utf-8")


@pytest.mark.parametrize("closed", [[0], [2], [0, 1, 2]])
def test_closed_standard_files_do_no_harm(config: Path, closed: list[int]) -> None:
    command = under(trivet(config, "job", "list"), closed=closed)
    done = subprocess.run(command, capture_output=True, timeout=DEADLINE_S, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert ("Zürich…" in done.stdout.decode("utf-8")) == (1 not in closed)


def test_a_terminal_of_no_width_is_one_of_unknown_width(config: Path) -> None:
    variables = os.environ | {"COLUMNS": "0", "LINES": "0"}
    done = subprocess.run(
        trivet(config, "job", "list"), env=variables, capture_output=True, timeout=DEADLINE_S, check=True
    )
    assert "Zürich…" in done.stdout.decode("utf-8")
