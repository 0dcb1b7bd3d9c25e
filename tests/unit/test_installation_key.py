"""The key that signs cached answers: made where everything is on one machine, demanded where Redis is elsewhere."""

import stat
import threading
from pathlib import Path

import pytest

from trivet_tasks.config.installation_key import FILE_NAME, check_key, make_key_file, read_key
from trivet_tasks.config.settings import Settings, load_settings
from trivet_tasks.errors import ConfigError

SECRET = "0123456789abcdef" * 2
LOCAL = ["", "redis://127.0.0.1:6379/0", "redis://localhost", "redis://[::1]:6379", "unix:///run/redis.sock"]
ELSEWHERE = ["redis://:pass@redis.internal:6379/0", "rediss://10.0.0.7", "redis://127.evil.example"]
SENTINELS = "sentinel://{}:26379;sentinel://127.0.0.1:26380/0?master_name=m"


def settings(folder: Path, url: str = "", more: str = "", *, cache: bool = True) -> Settings:
    path = folder / "trivet.toml"
    text = f'[redis]\nurl = "{url}"\n[cache]\nenabled = {str(cache).lower()}\n{more}'
    path.write_text(text, encoding="utf-8")
    return load_settings(path)


@pytest.mark.parametrize("url", [*LOCAL, SENTINELS.format("127.0.0.1")])
def test_on_one_machine_it_is_made_once_and_only_its_user_reads_it(tmp_path: Path, url: str) -> None:
    found = settings(tmp_path, url)
    key = read_key(found)
    assert key is not None
    path = tmp_path / ".trivet" / FILE_NAME
    assert len(key) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert read_key(found) == key
    assert list(path.parent.iterdir()) == [path], "nothing is left behind"


@pytest.mark.parametrize("url", [*ELSEWHERE, SENTINELS.format("10.0.0.1")])
def test_where_redis_is_elsewhere_it_must_be_named(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_key(settings(tmp_path, url))
    said = str(refused.value)
    assert said.startswith(f"{tmp_path / 'trivet.toml'}: [security] key: is needed")
    assert "env:NAME" in said
    assert "pass" not in said.replace("passes", "")
    assert not (tmp_path / ".trivet").exists()


def test_with_the_cache_off_a_key_is_made_where_it_can_be_and_never_demanded(tmp_path: Path) -> None:
    elsewhere = settings(tmp_path, ELSEWHERE[0], cache=False)
    check_key(elsewhere)
    assert read_key(elsewhere) is None
    here = settings(tmp_path, cache=False)
    assert len(read_key(here) or b"") == 64, "a request may ask for the cache"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".trivet").write_text("a file, no folder", encoding="ascii")
    assert read_key(settings(tmp_path / "other", cache=False)) is None


def test_it_is_read_from_a_file_beside_the_configuration_or_from_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text(f"{SECRET}\n", encoding="ascii")
    monkeypatch.setenv("TRIVET_KEY", SECRET)
    for reference in ("file:key", "env:TRIVET_KEY"):
        found = settings(tmp_path, ELSEWHERE[0], f'[security]\nkey = "{reference}"\n')
        assert read_key(found) == SECRET.encode()
        assert SECRET not in repr(found)
    monkeypatch.setenv("TRIVET_SECURITY__KEY", "env:TRIVET_KEY")
    assert read_key(settings(tmp_path, ELSEWHERE[0])) == SECRET.encode()


@pytest.mark.parametrize(
    ("secret", "words"),
    [
        ("", "is empty or not set, but [security] takes its key from there"),
        ("short", "holds 5 characters; a key has 32"),
    ],
)
def test_one_that_is_missing_or_weak_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str, words: str
) -> None:
    monkeypatch.setenv("TRIVET_KEY", secret)
    with pytest.raises(ConfigError) as refused:
        read_key(settings(tmp_path, more='[security]\nkey = "env:TRIVET_KEY"\n'))
    assert words in str(refused.value)


def test_a_secret_in_the_place_of_its_name_is_refused_and_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        settings(tmp_path, more=f'[security]\nkey = "{SECRET}"\n')
    assert "must be a reference" in str(refused.value)
    assert SECRET not in str(refused.value)


def test_where_none_can_be_written_it_is_said_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / ".trivet").write_text("a file, no folder", encoding="ascii")
    with pytest.raises(ConfigError) as refused:
        read_key(settings(tmp_path))
    assert f"{tmp_path / '.trivet' / FILE_NAME}: the key that signs cached answers cannot be kept there" in str(
        refused.value
    )
    assert "[cache] enabled = false" in str(refused.value)


def test_many_that_need_it_at_once_have_the_same(tmp_path: Path) -> None:
    found = settings(tmp_path)
    start = threading.Barrier(8)
    keys: list[bytes | None] = []
    made: list[bool] = []

    def need() -> None:
        start.wait()
        made.append(make_key_file(tmp_path / ".trivet" / FILE_NAME))
        keys.append(read_key(found))

    threads = [threading.Thread(target=need) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(keys), len(set(keys)), sum(made)) == (8, 1, 1)
