"""Finding the configuration: from the working directory upwards, and never one that others can write."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.command_line import Said

from trivet import Client
from trivet.cli import run
from trivet_tasks.config.finding import find_configuration
from trivet_tasks.config.running import only_one, running_in
from trivet_tasks.config.settings import load_settings
from trivet_tasks.errors import ConfigError, ProcessFailed

MINE = "[leases]\nttl_s = 7\n"
NOBODY = 65_534
NEEDS_A_SYSTEM = (
    ("submit", "Hello."),
    ("bulk", "requests.jsonl"),
    ("batch", "list"),
    ("batch", "status", "contracts"),
    ("job", "list"),
    ("routes",),
    ("routes", "check"),
    ("costs",),
    ("budgets",),
    ("schedules",),
    ("cache", "stats"),
    ("db", "upgrade"),
    ("worker",),
    ("scheduler",),
    ("flower",),
)


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder; the working directory is two levels below it, and no variable of ours is set."""
    for name in list(os.environ):
        if name.startswith("TRIVET_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    below = tmp_path / "project" / "src" / "jobs"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    return tmp_path / "project"


def write(folder: Path, text: str = MINE) -> Path:
    path = folder / "trivet.toml"
    path.write_text(text, encoding="utf-8")
    return path


def ran_in(folder: Path) -> Path:
    """Return the data directory of a Trivet that ran in a folder."""
    data = folder / ".trivet"
    data.mkdir(mode=0o700)
    with only_one(data):
        return data


@pytest.fixture
def trivet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Runs a command in this process."""

    def run_here(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["trivet", *arguments])
        return Said(run(), *capsys.readouterr())

    return run_here


def refused() -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings()
    return str(caught.value)


# --- the order of the search


def test_the_nearest_file_above_is_read_and_paths_count_from_it(top: Path) -> None:
    path = write(top)
    settings = load_settings(required=True)
    assert (settings.leases.ttl_s, settings.source) == (7, str(path))
    assert settings.found == f"in {top}, above the working directory"
    assert settings.store_url == f"sqlite:///{top}/.trivet/trivet.db"
    nearer = write(top / "src", "")
    assert load_settings().source == str(nearer)


def test_what_is_named_wins_over_what_is_found(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(top)
    other = write(top / "src")
    monkeypatch.setenv("TRIVET_CONFIG", str(other))
    assert load_settings().found == "named by TRIVET_CONFIG"
    assert load_settings(top / "trivet.toml").found == "named"


def test_a_running_trivet_hands_its_configuration_to_the_folders_below(top: Path) -> None:
    write(top)
    data = ran_in(top)
    simulated = data / "simulated.toml"
    simulated.write_text('[routes.simulated]\nprovider = "anthropic"\n', encoding="utf-8")
    with only_one(data) as tell_others:
        assert load_settings().source == str(top / "trivet.toml"), "it has not told its configuration yet"
        tell_others(simulated)
        found = running_in(data)
        assert found is not None
        assert found.process == os.getpid()
        settings = load_settings()
        assert list(settings.routes) == ["simulated"]
        assert settings.found == f"of the `trivet up` that runs in {top}"
        with pytest.raises(ProcessFailed, match=f"process {os.getpid()}"), only_one(data):
            pass
        assert find_configuration(running=False).path == top / "trivet.toml"
    assert running_in(data) is None
    assert load_settings().source == str(top / "trivet.toml")


def test_the_data_of_a_stopped_trivet_ends_the_search(top: Path) -> None:
    """After a rehearsal in a folder of a project, a job must not go to the routes of the project."""
    write(top, '[routes.real]\nprovider = "anthropic"\n')
    ran_in(top / "src")
    settings = load_settings(required=True)
    assert settings.routes == {}
    assert settings.base_dir == top / "src"
    assert settings.found == f"of the Trivet that ran in {top / 'src'} before"


def test_up_simulate_looks_at_its_own_folder_alone(top: Path) -> None:
    write(top)
    assert find_configuration(parents=False).how == ""


# --- trust


@pytest.mark.parametrize(
    ("of", "mode", "words"),
    [
        ("trivet.toml", 0o646, "every user can write it"),
        ("", 0o777, "every user can write {top}"),
        ("", 0o1777, ""),
        ("trivet.toml", 0o664, ""),
    ],
    ids=["the file", "its folder", "a sticky folder of ours", "our own group"],
)
def test_a_file_above_that_others_can_write_is_refused(top: Path, of: str, mode: int, words: str) -> None:
    path = write(top)
    (top / of).chmod(mode)
    if not words:
        assert load_settings().source == str(path)
        return
    said = refused()
    assert f"{path}: is not used, because {words.format(top=top)} (owner " in said
    assert f"mode {mode:04o})" in said
    assert "TRIVET_CONFIG" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("of", ["trivet.toml", ""], ids=["the file", "its folder"])
def test_a_file_above_of_another_user_is_refused(top: Path, of: str) -> None:
    path = write(top)
    os.chown(top / of, NOBODY, -1)
    said = refused()
    assert f"{path}: is not used, because" in said
    assert "belongs to nobody (owner nobody, mode" in said
    assert load_settings(path).source == str(path), "who names it trusts it"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_link_is_as_good_as_its_target(top: Path) -> None:
    target = write(top.parent)
    (top / "trivet.toml").symlink_to(target)
    assert load_settings().leases.ttl_s == 7
    os.chown(target, NOBODY, -1)
    assert "belongs to nobody" in refused()


def test_data_above_that_others_can_write_is_refused(top: Path) -> None:
    data = ran_in(top)
    with only_one(data) as tell_others:
        tell_others(top / "evil.toml")
        data.chmod(0o777)
        assert f"{data}: is not used, because every user can write it" in refused()


def test_in_the_working_directory_itself_a_warning_is_enough(top: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(Path.cwd())
    assert load_settings().source == str(path)
    assert caplog.messages == []
    path.chmod(0o666)
    assert load_settings().source == str(path)
    assert [message for message in caplog.messages if str(path) in message and "chmod o-w" in message]


# --- nothing there


@pytest.mark.parametrize("command", NEEDS_A_SYSTEM, ids=" ".join)
def test_commands_that_need_a_system_say_what_to_do_and_create_nothing(
    top: Path, trivet: Callable[..., Said], command: tuple[str, ...]
) -> None:
    done = trivet(*command)
    assert (done.code, done.out) == (2, "")
    assert f"There is no configuration, and no Trivet runs here: neither {Path.cwd()} nor a folder above" in done.err
    for advice in ("--config", "TRIVET_CONFIG", "trivet config init", "trivet up --simulate"):
        assert advice in done.err
    assert list(top.rglob("*")) == [top / "src", top / "src" / "jobs"]


def test_a_client_says_the_same(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="There is no configuration, and no Trivet runs here"):
        Client()
    Client(settings=load_settings()).close()
    monkeypatch.setenv("TRIVET_READY_FILE", "/nowhere")  # no setting
    with pytest.raises(ConfigError, match="There is no configuration"):
        Client()
    monkeypatch.setenv("TRIVET_STORE__URL", f"sqlite:///{top}/jobs.db")
    with Client() as client:
        assert client.settings.source == "the TRIVET_* variables"
        assert client.jobs() == []


def test_commands_about_the_configuration_need_none(top: Path, trivet: Callable[..., Said]) -> None:
    checked = trivet("config", "check")
    assert checked.code == 1
    assert checked.err.startswith("No route is configured.")
    assert "found          no: there is no trivet.toml here or in a folder above" in checked.out
    shown = trivet("config", "show", "--json")
    assert (shown.code, shown.json["source"], shown.json["found"]) == (0, "the built-in defaults", None)
    assert list(top.rglob(".trivet")) == []


def test_config_names_the_file_in_force_and_how_it_was_found(top: Path, trivet: Callable[..., Said]) -> None:
    path = write(top)
    shown = trivet("config", "show")
    assert shown.out.splitlines()[0] == f"# read from {path} (in {top}, above the working directory)"
    assert f"found          in {top}, above the working directory" in trivet("config", "check").out


def test_a_working_directory_that_was_deleted_is_named(top: Path) -> None:
    Path.cwd().rmdir()
    assert "working directory was deleted" in refused()
