"""Settings: where they come from, what is refused, and that secrets stay secret."""

from zoneinfo import ZoneInfo

import pytest

from disparo.errors import SettingsError
from disparo.settings import Environment, environment, load, token_variable

HOME = {"DISPARO_HOME": "/nowhere/disparo"}


def source(**values: str) -> Environment:
    return Environment(HOME | {f"DISPARO_{name}": value for name, value in values.items()})


def test_what_is_left_out_has_its_documented_default():
    settings = load(source())
    assert settings.base_url == "https://partner.gupshup.io"
    assert settings.zone == ZoneInfo("America/Sao_Paulo")
    assert (settings.database_url, settings.redis_url, settings.proxy, settings.ca_bundle) == (None,) * 4


def test_a_blank_variable_is_one_that_is_left_out():
    settings = load(source(DATABASE_URL="", REDIS_URL="  ", THREADS="", CA_BUNDLE="", TIMEZONE=""))
    assert settings.database_url is None
    assert settings.redis_url is None
    assert settings.timezone == "America/Sao_Paulo"


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("THREADS", "many", "integer"),
        ("THREADS", "0", "greater than or equal to 1"),
        ("TIMEZONE", "Sao Paulo", "no time zone"),
        ("TIMEZONE", "../../etc/passwd", "no time zone"),
        ("LOG_LEVEL", "loud", "debug, info, warning or error"),
        ("CA_BUNDLE", "/nowhere/ca.pem", "there is no file /nowhere/ca.pem"),
        ("BASE_URL", "partner.gupshup.io", "no address like https://"),
        ("BASE_URL", "ftp://partner.gupshup.io", "no address like https://"),
        ("BASE_URL", "https://host/path?query=1", "no address like https://"),
        ("DATABASE_URL", "mysql://user:hidden-word@host/db", "postgresql://"),
        ("DATABASE_URL", "host/db", "postgresql://"),
        ("REDIS_URL", "http://:hidden-word@host:6379", "redis://host:6379/0"),
        ("REDIS_URL", "redis://:hidden-word@host:port/0", "redis://host:6379/0"),
        ("REDIS_URL", "unix://", "unix:///path"),
        ("PROXY", "user:hidden-word@host:3128", "http://"),
        ("PROXY", "socks5://user:hidden-word@host", "http://"),
        ("BASE_URL", "https://user:hidden-word@host", "no address like https://"),
        ("NOTIFY_URL", "hooks.example.com/hidden-word", "no address like https://"),
        ("NOTIFY_URL", "file:///hidden-word", "no address like https://"),
        ("NOTIFY_URL", "https://host:port/hidden-word", "no address like https://"),
        ("NOTIFY_URL", "https://host/hidden word hidden-word", "no address like https://"),
        ("NOTIFY_COMMAND", "tell 'hidden-word", "no end"),
    ],
)
def test_a_wrong_value_is_one_sentence_that_names_the_variable_and_shows_no_secret(name, value, told):
    with pytest.raises(SettingsError) as refused:
        load(source(**{name: value}))
    assert str(refused.value).startswith(f"DISPARO_{name}: ")
    assert told in str(refused.value)
    assert "hidden-word" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "postgresql+psycopg://u:p@h:5432/d"),
        ("DATABASE_URL", "postgres://h/d"),
        ("REDIS_URL", "rediss://:p@h:6379/0"),
        ("REDIS_URL", "unix:///run/valkey.sock?db=3"),
        ("PROXY", "http://u:p@h:3128"),
    ],
)
def test_each_spelling_of_an_address_is_taken_as_it_is(name, value):
    assert getattr(load(source(**{name: value})), name.lower()).get_secret_value() == value


def test_the_last_slash_of_the_base_url_does_not_count():
    assert load(source(BASE_URL="https://host/prefix/")).base_url == "https://host/prefix"


def test_one_is_told_an_address_or_a_command():
    assert load(source(NOTIFY_COMMAND="tell 'two words'", NOTIFY_URL="")).notify_command == "tell 'two words'"
    assert load(source(NOTIFY_URL="http://127.0.0.1:8080/hook?key=1")).notify_command is None
    with pytest.raises(
        SettingsError, match=r"^DISPARO_NOTIFY_COMMAND: DISPARO_NOTIFY_URL is set too; keep one"
    ):
        load(source(NOTIFY_URL="https://hooks.example.com/1", NOTIFY_COMMAND="true"))


def test_secrets_do_not_appear_when_settings_are_printed(tmp_path):
    given = source(DATABASE_URL="postgresql://u:hidden-word@h/d", TOKEN_LOJA="sk_hidden-word")
    assert "hidden-word" not in f"{load(given)!r} {given!r} {load(given)}"


def test_each_secret_may_come_from_a_file(tmp_path):
    path = tmp_path / "database"
    path.write_text("postgresql://u:p@h/d\n")
    assert load(source(DATABASE_URL_FILE=str(path))).database_url.get_secret_value() == "postgresql://u:p@h/d"


def test_a_token_file_is_read_again_when_it_changes(tmp_path):
    path = tmp_path / "token"
    given = source(TOKEN_LOJA_SUL_FILE=str(path))
    path.write_text("sk_first\n")
    assert given.token("loja-sul") == "sk_first"
    path.write_text("sk_second\r\n")
    assert given.token("loja-sul") == "sk_second"
    path.write_text("\n")
    assert given.token("loja-sul") is None


def test_a_value_and_its_file_at_once_are_refused(tmp_path):
    given = source(TOKEN_LOJA="sk_hidden-word", TOKEN_LOJA_FILE=str(tmp_path / "token"))
    with pytest.raises(SettingsError, match="both DISPARO_TOKEN_LOJA and DISPARO_TOKEN_LOJA_FILE") as refused:
        given.token("loja")
    assert "hidden-word" not in str(refused.value)


@pytest.mark.parametrize("kind", ["missing", "folder", "bytes"])
def test_a_secret_file_that_cannot_be_read_is_named(tmp_path, kind):
    path = tmp_path / "token"
    if kind == "folder":
        path.mkdir()
    elif kind == "bytes":
        path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match=f"DISPARO_TOKEN_LOJA_FILE names {path}, which cannot be read"):
        source(TOKEN_LOJA_FILE=str(path)).token("loja")


@pytest.mark.parametrize("token", ["sk_one\nsk_two", "sk with blanks", "sk_ç", "sk_\x07"])
def test_a_token_that_no_header_can_carry_is_refused_without_showing_it(token):
    with pytest.raises(SettingsError, match="DISPARO_TOKEN_LOJA holds") as refused:
        source(TOKEN_LOJA=token).token("loja")
    assert "sk" not in str(refused.value)


def test_blanks_around_a_token_do_not_count():
    assert source(TOKEN_LOJA=" sk_1\n").token("loja") == "sk_1"
    assert source(TOKEN_LOJA="  ").token("loja") is None


def test_the_variable_of_a_token_is_the_apps_name_in_capitals():
    assert token_variable("loja-sul") == "DISPARO_TOKEN_LOJA_SUL"


def test_the_process_goes_before_the_folder_and_the_folder_before_the_home(tmp_path):
    folder, home = tmp_path / "folder", tmp_path / "home"
    for place, text in (
        (folder, "DISPARO_THREADS=2\nDISPARO_TIMEZONE=UTC\nOTHER=1\n"),
        (home, "DISPARO_THREADS=3\nDISPARO_TIMEZONE=Europe/Lisbon\nDISPARO_LOG_LEVEL=error\n"),
    ):
        place.mkdir()
        (place / ".env").write_text(text)
    given = environment({"DISPARO_HOME": str(home), "DISPARO_THREADS": "1", "PATH": "/bin"}, folder)
    settings = load(given)
    assert (settings.threads, settings.timezone, settings.log_level) == (1, "UTC", "error")
    assert not {"PATH", "OTHER"} & set(given.values)


def test_the_folders_env_file_may_say_where_the_home_is(tmp_path):
    (tmp_path / ".env").write_text(f"DISPARO_HOME={tmp_path / 'home'}\n")
    assert load(environment({}, tmp_path)).home == tmp_path / "home"


def test_a_dollar_in_an_env_file_stays_a_dollar(tmp_path):
    (tmp_path / ".env").write_text("DISPARO_TOKEN_LOJA=sk_$HOME${HOME}\n")
    assert environment({"DISPARO_HOME": "/nowhere"}, tmp_path).token("loja") == "sk_$HOME${HOME}"


def test_an_env_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / ".env").write_bytes(b"DISPARO_THREADS=\xff\n")
    with pytest.raises(SettingsError, match=r"the settings file .*/\.env cannot be read"):
        environment({"DISPARO_HOME": "/nowhere"}, tmp_path)
