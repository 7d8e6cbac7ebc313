"""The settings of one process, read once from the environment and from ``.env`` files.

Order: the process environment, then ``.env`` in the working folder, then ``.env`` in the home. Each
secret may come from a file instead (``DISPARO_DATABASE_URL_FILE``), which is read again when it changes.
"""

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from disparo.errors import SettingsError

PREFIX = "DISPARO_"

#: What an app may be called: it becomes part of a variable's name.
APP_NAME = re.compile(r"[a-z0-9-]{1,40}")

#: Settings that hold a secret, and may be given as ``…_FILE``.
SECRETS = ("DATABASE_URL", "REDIS_URL", "NOTIFY_URL", "ENCRYPTION_KEY", "PROXY", "PARTNER_SECRET")

_DATABASE_URL = re.compile(r"postgres(ql)?(\+\w+)?://")
_PROXY = re.compile(r"https?://[^\s/?#]+/?")
# What the Authorization header can carry.
_TOKEN = re.compile(r"[\x21-\x7e]+")

Blank = BeforeValidator(lambda value: None if value == "" else value)


class Settings(BaseModel):
    """All settings, validated. Made by `load`; secrets do not appear in its ``repr``."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True, extra="ignore")

    home: Path = Field(description="data folder: embedded servers, journals")
    database_url: Annotated[SecretStr | None, Blank] = Field(
        default=None, description="PostgreSQL 15 or newer; left out: an embedded one in the home"
    )
    redis_url: Annotated[SecretStr | None, Blank] = Field(
        default=None, description="Redis 6.2+ or Valkey 7.2+; left out: an embedded one in the home"
    )
    #: Source: the provider's pages of the v3 message endpoint, read 2026-11-21.
    base_url: str = Field(
        default="https://partner.gupshup.io", description="the provider; an app may have its own"
    )
    timezone: str = Field(default="America/Sao_Paulo", description="zone of instants that name none")
    threads: int = Field(default=32, ge=1, le=1024, description="requests in flight per worker process")
    ca_bundle: Annotated[Path | None, Blank] = Field(
        default=None, description="CA certificates for the provider (PEM)"
    )
    proxy: Annotated[SecretStr | None, Blank] = Field(
        default=None, description="HTTP proxy towards the provider"
    )
    log_level: str = Field(default="info", description="debug, info, warning or error")
    notify_url: Annotated[SecretStr | None, Blank] = Field(
        default=None, description="an address that is told what people should hear of"
    )
    notify_command: Annotated[str | None, Blank] = Field(
        default=None, repr=False, description="or a command that is told, run without a shell"
    )
    encryption_key: Annotated[SecretStr | None, Blank] = Field(
        default=None, description="for fetched tokens in the database: any text of 32 characters or more"
    )
    partner_email: Annotated[str | None, Blank] = Field(
        default=None, description="the account at the provider that fetches tokens of apps"
    )
    partner_secret: Annotated[SecretStr | None, Blank] = Field(
        default=None, description="its client secret, or password"
    )
    partner_id: Annotated[str | None, Blank] = Field(
        default=None, description="its partner id, for universal tokens only"
    )

    @field_validator("database_url")
    @classmethod
    def _database_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _DATABASE_URL.match(value.get_secret_value()):
            raise ValueError("it is no address like postgresql://user:password@host/database")
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _is_redis_url(value.get_secret_value()):
            raise ValueError("it is no address like redis://host:6379/0, rediss://… or unix:///path?db=0")
        return value

    @field_validator("proxy")
    @classmethod
    def _proxy(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _PROXY.fullmatch(value.get_secret_value()):
            raise ValueError("it is no address like http://user:password@host:3128")
        return value

    @field_validator("notify_url")
    @classmethod
    def _notify_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _is_http_url(value.get_secret_value()):
            raise ValueError("it is no address like https://hooks.example.com/services/…")
        return value

    @field_validator("notify_command")
    @classmethod
    def _notify_command(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        try:
            shlex.split(value)
        except ValueError:
            raise ValueError("its quotes or backslashes have no end; write it as in a shell") from None
        if info.data.get("notify_url") is not None:
            raise ValueError("DISPARO_NOTIFY_URL is set too; keep one of them")
        return value

    @field_validator("encryption_key")
    @classmethod
    def _encryption_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < 32:
            raise ValueError("it is shorter than 32 characters; make one with `openssl rand -base64 32`")
        return value

    @field_validator("partner_id")
    @classmethod
    def _partner_id(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[\w-]{1,100}", value, re.ASCII):
            raise ValueError("it is the number that the partner portal shows, without blanks")
        return value

    @field_validator("base_url")
    @classmethod
    def _base_url(cls, value: str) -> str:
        return checked_base_url(value)

    @field_validator("timezone")
    @classmethod
    def _timezone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"{value!r} is no time zone; write one like America/Sao_Paulo") from None
        return value

    @field_validator("log_level")
    @classmethod
    def _log_level(cls, value: str) -> str:
        if value.lower() not in {"debug", "info", "warning", "error"}:
            raise ValueError(f"{value!r} is no log level; write debug, info, warning or error")
        return value.lower()

    @field_validator("ca_bundle")
    @classmethod
    def _ca_bundle(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError(f"there is no file {value}")
        return value

    @property
    def zone(self) -> ZoneInfo:
        """The zone of instants that name none."""
        return ZoneInfo(self.timezone)


def checked_base_url(value: str) -> str:
    """``value`` without its last slash, or ``ValueError`` when it is no http(s) address."""
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", value):
        # A name and password in it are none of the reader's business.
        shown = re.sub(r"//[^/]*@", "//***@", value)
        raise ValueError(f"{shown!r} is no address like https://partner.gupshup.io")
    return value.rstrip("/")


def _is_http_url(value: str) -> bool:
    try:
        parts = urlsplit(value)
        parts.port  # noqa: B018 - read when it is asked for
    except ValueError:
        return False
    printable = value.isascii() and value.isprintable() and " " not in value
    return printable and parts.scheme in {"http", "https"} and bool(parts.hostname)


def _is_redis_url(value: str) -> bool:
    try:
        parts = urlsplit(value)
        # The port is read when it is asked for.
        parts.port  # noqa: B018
    except ValueError:
        return False
    return bool(parts.path) if parts.scheme == "unix" else parts.scheme in {"redis", "rediss"}


@dataclass(frozen=True)
class Environment:
    """Where settings come from: the merged ``DISPARO_*`` variables of one process.

    ``values`` is what child processes are given, so that they see the same ``.env`` files.
    """

    values: Mapping[str, str] = field(repr=False)

    def secret(self, name: str) -> str | None:
        """``DISPARO_<name>``, or the content of the file that ``DISPARO_<name>_FILE`` names, read now.

        Raises:
          SettingsError: Both are set, or the file cannot be read.
        """
        variable, given = PREFIX + name, self.values.get(PREFIX + name)
        path = self.values.get(f"{variable}_FILE")
        if not path:
            return (given or "").strip() or None
        if (given or "").strip():
            raise SettingsError(f"both {variable} and {variable}_FILE are set; keep one of them")
        try:
            return Path(path).read_text(encoding="utf-8").strip() or None
        except (OSError, UnicodeDecodeError) as err:
            raise SettingsError(f"{variable}_FILE names {path}, which cannot be read: {_why(err)}") from err

    def token(self, app_name: str) -> str | None:
        """The provider's token of an app, read now (a ``…_FILE`` may have changed), or None.

        Raises:
          SettingsError: As `secret`, or it is no token.
        """
        found = self.secret(token_variable(app_name).removeprefix(PREFIX))
        if found is not None and not _TOKEN.fullmatch(found):
            raise SettingsError(
                f"{token_variable(app_name)} holds blanks, line breaks or other characters that no token has; "
                "copy it again"
            )
        return found


def token_variable(app_name: str) -> str:
    """The variable that holds the token of an app: ``loja-sul`` → ``DISPARO_TOKEN_LOJA_SUL``."""
    return f"{PREFIX}TOKEN_{app_name.upper().replace('-', '_')}"


def environment(environ: Mapping[str, str] | None = None, folder: Path | None = None) -> Environment:
    """The ``DISPARO_*`` variables of the process environment and both ``.env`` files, merged.

    Args:
      environ: The process environment; the real one when left out.
      folder: The working folder whose ``.env`` counts; the real one when left out.

    Raises:
      SettingsError: A ``.env`` file cannot be read.
    """
    from disparo.embedded import default_home

    environ = os.environ if environ is None else environ
    near = _dotenv((folder or Path.cwd()) / ".env")
    merged = {**near, **{name: value for name, value in environ.items() if name.startswith(PREFIX)}}
    home = Path(merged.get("DISPARO_HOME") or default_home()).expanduser().absolute()
    return Environment({**_dotenv(home / ".env"), **merged, "DISPARO_HOME": str(home)})


def load(source: Environment | None = None) -> Settings:
    """The validated settings of ``source`` (by default of this process).

    Raises:
      SettingsError: A sentence that names the variable.
    """
    source = source or environment()
    values: dict[str, Any] = {
        name.removeprefix(PREFIX).lower(): value
        for name, value in source.values.items()
        if not name.startswith("DISPARO_TOKEN_") and value != ""
    }
    for name in SECRETS:
        values[name.lower()] = source.secret(name)
    try:
        return Settings.model_validate(values)
    except ValidationError as err:
        first = err.errors()[0]
        variable = PREFIX + str(first["loc"][0]).upper()
        raise SettingsError(f"{variable}: {first['msg'].removeprefix('Value error, ')}") from err


def _dotenv(path: Path) -> dict[str, str]:
    from dotenv import dotenv_values

    try:
        if not path.is_file():
            return {}
        values = dotenv_values(path, interpolate=False)
    except (OSError, UnicodeDecodeError) as err:
        raise SettingsError(f"the settings file {path} cannot be read: {_why(err)}") from err
    return {name: value for name, value in values.items() if name.startswith(PREFIX) and value is not None}


def _why(err: Exception) -> str:
    return (err.strerror or str(err)) if isinstance(err, OSError) else str(err)
