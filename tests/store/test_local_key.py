"""The key that the first start of a gateway writes: one, once, readable by its user alone."""

import stat
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.store.world import InThread, World

from trivet.admin import Admin
from trivet.gateway.local_key import LocalKey, ensure_local_key
from trivet_tasks.config.settings import Settings, load_settings
from trivet_tasks.errors import ConfigError
from trivet_tasks.gateway_keys import new_token

URL = "http://127.0.0.1:8080"


@pytest.fixture
def settings(world: World, store_url: str, tmp_path: Path) -> Settings:
    """Settings of a machine, over the world's database."""
    return machine(tmp_path / "it's one", store_url)


@pytest.fixture
def admin(settings: Settings) -> Iterator[Admin]:
    with Admin(settings=settings) as admin:
        yield admin


def machine(folder: Path, url: str) -> Settings:
    folder.mkdir()
    (folder / "trivet.toml").write_text(f'[store]\nurl = "{url}"\n')
    return load_settings(folder / "trivet.toml", required=True)


def made(settings: Settings, admin: Admin) -> LocalKey:
    found = ensure_local_key(settings, admin.keys)
    assert found is not None
    return found


def test_the_first_start_writes_an_admin_key_and_later_ones_take_it(settings: Settings, admin: Admin) -> None:
    first = made(settings, admin)
    assert first.made
    assert first.works
    assert first.fault() == ""
    assert stat.S_IMODE(first.path.stat().st_mode) == 0o600
    assert first.path == settings.data_dir / "gateway.key"
    assert first.token.text not in repr(first)
    (key,) = admin.keys.list().keys
    assert (key.name, key.terms.admin, key.terms.tenant) == ("local", True, None)
    again = made(settings, admin)
    assert (again.token.text, again.made, again.works) == (first.token.text, False, True)
    assert len(admin.keys.list().keys) == 1


def test_its_lines_set_the_variables_in_a_shell(settings: Settings, admin: Admin) -> None:
    key = made(settings, admin)
    lines = key.exports(URL)
    assert key.token.text not in " ".join(lines)
    script = "\n".join([*lines, 'printf "%s %s" "$ANTHROPIC_BASE_URL" "$ANTHROPIC_API_KEY"'])
    said = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert said.stdout == f"{URL} {key.token.text}"


def test_where_there_ever_was_a_key_none_is_made(settings: Settings, admin: Admin) -> None:
    admin.keys.create("search")
    assert ensure_local_key(settings, admin.keys) is None
    admin.keys.revoke("search")
    assert ensure_local_key(settings, admin.keys) is None
    assert not (settings.data_dir / "gateway.key").exists()


def test_a_revoked_local_key_is_not_made_again(settings: Settings, admin: Admin) -> None:
    first = made(settings, admin)
    admin.keys.revoke("local")
    again = made(settings, admin)
    assert not again.works
    assert again.fault().startswith(f"The key in {first.path} was revoked, so it does not work here. ")
    assert [key.id for key in admin.keys.list().keys] == [first.token.key_id]


def test_a_file_goes_on_with_a_new_database_but_not_with_one_that_has_keys(
    settings: Settings, admin: Admin, tmp_path: Path
) -> None:
    path = settings.data_dir / "gateway.key"
    path.parent.mkdir(mode=0o700)
    token = new_token()
    path.write_text(f"{token.text}\n")
    assert made(settings, admin).works
    path.write_text(f"{new_token().text}\n")
    other = made(settings, admin)
    assert (other.works, other.state) == (False, None)
    assert "is not a key of this database" in other.fault()
    assert path.exists()


def test_a_forged_secret_with_the_id_of_a_key_does_not_work(settings: Settings, admin: Admin) -> None:
    first = made(settings, admin)
    forged = first.token.text[:20] + new_token().text[20:]
    first.path.write_text(forged)
    assert made(settings, admin).state is None


def test_a_file_without_a_key_is_an_error_that_names_it(settings: Settings, admin: Admin) -> None:
    path = settings.data_dir / "gateway.key"
    path.parent.mkdir(mode=0o700)
    for content, says in ((b"", "has no gateway key in it"), (b"\xff", "it is not ASCII text")):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=says) as caught:
            ensure_local_key(settings, admin.keys)
        assert str(path) in str(caught.value)


def test_of_many_starts_at_once_on_two_machines_one_makes_a_key(
    settings: Settings, store_url: str, tmp_path: Path
) -> None:
    machines = [settings, machine(tmp_path / "two", store_url)]
    barrier = threading.Barrier(6)

    def start(of: Settings) -> LocalKey | None:
        with Admin(settings=of) as admin:
            admin.keys.exist()
            barrier.wait(30)
            return ensure_local_key(of, admin.keys)

    started = [InThread(partial(start, machines[number % 2])) for number in range(6)]
    found = [one.result() for one in started]
    working = {key.token.text for key in found if key is not None and key.works}
    assert len(working) == 1
    with Admin(settings=settings) as admin:
        (key,) = admin.keys.list().keys
        again = [ensure_local_key(of, admin.keys) for of in machines]
    assert [one.token.key_id for one in again if one is not None] == [key.id]
