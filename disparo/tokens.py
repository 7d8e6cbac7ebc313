"""The token of each app: from the settings, or fetched once for all workers and renewed before it ends.

A fetched token is in three places: in the memory of each process; encrypted in table ``tokens``, one row for
each key that processes share; and at the provider. Who finds none that will do takes an advisory lock of the
subject, looks again, and only then asks the provider, so that of all processes one does. The lock ends with
its transaction, whatever becomes of the process.
"""

import json
import os
import threading
import time
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import TYPE_CHECKING, Literal, Protocol

from sqlalchemy import select
from sqlalchemy.orm import Session

from disparo import log, token_store
from disparo.clock import boot_clock
from disparo.errors import (
    DisparoError,
    ServiceError,
    SettingsError,
    TokenRefused,
    TokenUnavailable,
)
from disparo.models import App
from disparo.models import Token as StoredToken
from disparo.settings import Environment, token_variable
from disparo.token_store import BACK_OFF_SECONDS, LOCK_SECONDS, Stored, TokenStore

# Most commands need neither cryptography nor requests, whose import takes as long as they do.
if TYPE_CHECKING:
    from disparo.gupshup import tokens as provider
    from disparo.gupshup.client import Client

_log = log.get(__name__)

Kind = Literal["static", "partner", "universal"]
Scheme = Literal["raw", "bearer"]
KINDS: tuple[Kind, ...] = ("static", "partner", "universal")
SCHEMES: tuple[Scheme, ...] = ("raw", "bearer")

#: Static tokens stop working after this day, also for apps of partners. Source: Gupshup docs, "Customer App
#: Token (CAT) — Product Guide", read 2026-11-21.
STATIC_END = date(2027, 3, 31)

#: How often a token's file is looked at.
FILE_SECONDS = 1.0
#: How often the app's row and the stored token are read again, to see what others have changed.
READ_SECONDS = 15.0
#: Time for one request to the provider, while others wait for its outcome.
FETCH_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Token:
    """What an app sends with. Its value is in no ``repr``."""

    value: str = field(repr=False)
    scheme: Scheme
    expires_at: datetime | None
    source: Kind

    @property
    def authorization(self) -> str:
        """What stands in the ``Authorization`` header."""
        return self.value if self.scheme == "raw" else f"Bearer {self.value}"


class Process(token_store.Process, Protocol):
    """What is needed of a process's connections."""

    @property
    def environment(self) -> Environment: ...


@dataclass(frozen=True, slots=True)
class Credentials:
    """The partner account that fetches tokens of apps."""

    kind: Kind
    email: str = field(repr=False)
    secret: str = field(repr=False)
    #: For universal tokens only.
    partner_id: str


def credentials(environment: Environment, kind: Kind, app_name: str) -> Credentials:
    """The credentials of the settings, read now.

    Raises:
      SettingsError: One is missing; names its variable.
    """
    names = ("PARTNER_EMAIL", "PARTNER_SECRET", *(("PARTNER_ID",) if kind == "universal" else ()))
    found = {name: environment.secret(name) for name in names}
    for name, value in found.items():
        if value is None:
            raise SettingsError(
                f"app {app_name} fetches its token ({kind}), and DISPARO_{name} is not set; "
                f"set it, or DISPARO_{name}_FILE with a file that holds it"
            )
    return Credentials(
        kind, found["PARTNER_EMAIL"] or "", found["PARTNER_SECRET"] or "", found.get("PARTNER_ID") or ""
    )


def require(environment: Environment, app_name: str, kind: Kind) -> None:
    """Return when an app's token, or what is needed to fetch one, is set here.

    Raises:
      SettingsError: It is missing; names the variable.
    """
    if kind != "static":
        credentials(environment, kind, app_name)
    elif environment.token(app_name) is None:
        variable = token_variable(app_name)
        raise SettingsError(
            f"app {app_name} has no token: set {variable}, or {variable}_FILE with a file that holds it"
        )


def ends_at(session: Session, app: App) -> datetime | None:
    """When the token that was fetched last for an app ends; None when it names no end, or none was fetched."""
    latest = select(StoredToken.expires_at).where(StoredToken.subject == f"app:{app.id}")
    return session.scalars(latest.order_by(StoredToken.fetched_at.desc()).limit(1)).first()


def in_words(environment: Environment, app: App, ends: datetime | None) -> str:
    """Where an app's token comes from, whether that is set here, and when it ends."""
    try:
        require(environment, app.name, kind_of(app.token_kind))
    except SettingsError:
        return f"{app.token_kind}, not set here"
    if kind_of(app.token_kind) == "static":
        from_file = environment.values.get(f"{token_variable(app.name)}_FILE")
        return f"static, from {'a file' if from_file else 'the environment'} here"
    return f"{app.token_kind}, " + (f"ends at {ends:%Y-%m-%d %H:%M} UTC" if ends else "no end known")


def warning(app: App) -> str | None:
    """What the owner of an app must know of its kind of token."""
    kind = kind_of(app.token_kind)
    if kind == "static":
        return (
            f"the provider's static tokens stop working after {STATIC_END}; before that, change to fetched ones: "
            f"`disparo app set {app.name} --token partner`"
        )
    if kind == "universal":
        return "universal tokens are built from the provider's pages and were never tried against it"
    return None


def remedy(app: App) -> str:
    """What to do when the provider refuses an app's token."""
    if kind_of(app.token_kind) == "static":
        variable = token_variable(app.name)
        return f"Copy it again from the partner portal into {variable} or the file of {variable}_FILE"
    return "Look whether the app belongs to the account of DISPARO_PARTNER_EMAIL, and whether its id is right"


def kind_of(word: str | None) -> Kind:
    """The kind of that name; static, as for every new app, where there is none."""
    return next((kind for kind in KINDS if kind == word), "static")


@dataclass(frozen=True, slots=True)
class _Sender:
    """An app, as far as its token goes."""

    id: int
    name: str
    gs_app_id: str
    base_url: str
    kind: Kind
    scheme: Scheme


@dataclass(frozen=True, slots=True)
class _Held:
    """A token in memory; instants are of the boot clock."""

    token: Token
    #: Before then nobody looks whether there is another.
    look_at: float
    ends: float
    #: The credentials and the app that it was fetched with and for.
    purpose: str = ""


@dataclass(slots=True)
class _Slot:
    """What this process knows of one app's token besides itself; used under its lock."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    sender: _Sender | None = None
    read_at: float = 0.0
    #: What the token's file looked like when it was read, and what it held.
    seen: tuple[object, ...] = ()
    found: str | None = field(default=None, repr=False)
    #: Until when nobody asks again, and why not.
    failed_until: float = 0.0
    failure: DisparoError | None = None
    #: The token that the provider refused while no other could be fetched.
    refused: str | None = field(default=None, repr=False)


class _LoginEndedError(Exception):
    """The token of the account was refused when an app's was asked for."""


class Tokens:
    """The tokens of all apps, for all threads of one process.

    Made once per process, and not before a fork.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._store = TokenStore(process)
        self._held: dict[int, _Held] = {}
        self._slots: dict[int, _Slot] = {}
        self._making = threading.Lock()
        self._client: Client | None = None

    def get(self, app_id: int) -> Token:
        """The token to send with now.

        From memory, but for one look a second at a token's file, and one each 15 seconds at the tables. One
        thread looks, or renews a token that is near its end; the others go on with what is there while it is
        valid, and wait for that one when it is not. A failure is remembered for some seconds, in which nobody
        asks again.

        Raises:
          SettingsError: There is none, or the provider refuses the credentials (`TokenRefused`); a sentence
            that names the variable.
          TokenUnavailable: The provider gives none just now. Try later.
          DatabaseUnavailable: PostgreSQL does not answer, and no token is in memory.
        """
        held = self._held.get(app_id)
        if held is not None and boot_clock() < held.look_at:
            return held.token
        return self._look(app_id)

    def renew(self, app_id: int, used: Token) -> bool:
        """After the provider refused ``used`` (401): whether the message may be tried again.

        True when another token is there, or when none can be fetched just now: `get` then says so until it can.
        False when there is nothing better: a token that was itself fetched in the last minute because one was
        refused is not fetched again. Of all threads and processes that come with the same token at most one asks.
        What is in the way is logged.
        """
        held = self._held.get(app_id)
        if held is not None and held.token.authorization != used.authorization:
            return True
        slot = self._slot(app_id)
        if not slot.lock.acquire(timeout=2 * LOCK_SECONDS):
            return True
        try:
            held = self._held.get(app_id)
            if held is not None and held.token.authorization != used.authorization:
                return True
            if slot.refused == used.value and boot_clock() < slot.failed_until:
                return True
            # Nobody sends with the refused one meanwhile: `get` waits for the lock.
            self._held.pop(app_id, None)
            slot.read_at, slot.seen = 0.0, ()
            return self._refresh(app_id, slot, None, used.value).authorization != used.authorization
        except ServiceError as err:
            slot.refused = used.value
            _log.warning("token_renewal_waits", app_id=app_id, why=str(err))
            return True
        except DisparoError as err:
            _log.warning("token_not_renewed", app_id=app_id, why=str(err))
            return False
        finally:
            slot.lock.release()

    def close(self) -> None:
        """Close idle connections to the provider."""
        if self._client is not None:
            self._client.close()

    # -- in this process -----------------------------------------------------------------------------

    def _slot(self, app_id: int) -> _Slot:
        return self._slots.setdefault(app_id, _Slot())

    def _look(self, app_id: int) -> Token:
        slot, held = self._slot(app_id), self._held.get(app_id)
        if held is not None and boot_clock() < held.ends:
            if not slot.lock.acquire(blocking=False):
                return held.token
        elif not slot.lock.acquire(timeout=2 * LOCK_SECONDS):
            raise TokenUnavailable("another thread has been fetching the token for half a minute")
        try:
            held = self._held.get(app_id)
            if held is not None and boot_clock() < held.look_at:
                return held.token
            if held is not None and boot_clock() >= held.ends:
                held = None
            if held is None and slot.failure is not None and boot_clock() < slot.failed_until:
                # A new one: what is raised again grows with each traceback.
                raise type(slot.failure)(*slot.failure.args)
            return self._refresh(app_id, slot, held, slot.refused)
        finally:
            slot.lock.release()

    def _refresh(self, app_id: int, slot: _Slot, held: _Held | None, refused: str | None) -> Token:
        """Find the present token and hold it; ``held`` is kept where nothing else can be had just now."""
        try:
            sender = self._sender(app_id, slot)
            is_static = sender.kind == "static"
            found = self._static(sender, slot) if is_static else self._fetched(sender, held, refused)
        except DisparoError as err:
            now = boot_clock()
            wait = max(BACK_OFF_SECONDS, err.retry_seconds if isinstance(err, TokenUnavailable) else 0.0)
            is_gone = isinstance(err, SettingsError) and (slot.sender is None or slot.sender.kind == "static")
            if held is None or is_gone:
                self._held.pop(app_id, None)
                # A token that a person sets is to be found at once.
                slot.failure, slot.failed_until = err, now + (0.0 if is_gone else wait)
                raise
            _log.warning(
                "token_not_renewed_yet", app_id=app_id, why=str(err), ends_at=str(held.token.expires_at)
            )
            found = replace(held, look_at=min(now + wait, held.ends))
        else:
            slot.failure, slot.refused = None, None
        self._held[app_id] = found
        return found.token

    def _sender(self, app_id: int, slot: _Slot) -> _Sender:
        now = boot_clock()
        if slot.sender is not None and now - slot.read_at < READ_SECONDS:
            return slot.sender
        try:
            with self._process.session() as session:
                app = session.get(App, app_id)
        except ServiceError:
            if slot.sender is None:
                raise
            slot.read_at = now
            return slot.sender
        if app is None:
            raise SettingsError(f"there is no app with number {app_id}")
        kind = kind_of(app.token_kind)
        usual: Scheme = "bearer" if kind == "universal" else "raw"
        slot.sender = _Sender(
            app.id,
            app.name,
            app.gs_app_id,
            app.base_url or self._process.settings.base_url,
            kind,
            next((scheme for scheme in SCHEMES if scheme == app.token_scheme), usual),
        )
        slot.read_at = now
        return slot.sender

    def _static(self, sender: _Sender, slot: _Slot) -> _Held:
        environment, variable = self._process.environment, token_variable(sender.name)
        path = environment.values.get(f"{variable}_FILE")
        try:
            known = os.stat(path) if path else None  # noqa: PTH116 - once a second and app
            seen: tuple[object, ...] = (path, known and (known.st_mtime_ns, known.st_size, known.st_ino))
        except OSError:
            seen = ()  # reading it tells what is wrong
        if not seen or seen != slot.seen:
            slot.found = environment.token(sender.name)
            # What was written a moment ago may be written again without looking different.
            is_settled = known is None or abs(time.time() - known.st_mtime) > 2
            slot.seen = seen if is_settled else ()
        if slot.found is None:
            slot.seen = ()
            raise SettingsError(
                f"app {sender.name} has no token here: set {variable} or {variable}_FILE where the workers run"
            )
        now = boot_clock()
        return _Held(Token(slot.found, sender.scheme, None, "static"), now + FILE_SECONDS, float("inf"))

    def _fetched(self, sender: _Sender, held: _Held | None, refused: str | None) -> _Held:
        account = credentials(self._process.environment, sender.kind, sender.name)
        about = [account.kind, account.email, account.secret, account.partner_id, sender.base_url]
        # Other credentials are another account, of which no refusal and no token is known.
        owner = f"account:{self._store.mark(json.dumps(about))}"
        subject, purpose = f"app:{sender.id}", f"{owner} {sender.gs_app_id}"
        stored = self._store.find(subject, purpose)
        if stored is None or stored.is_due or stored.value == refused:
            # Where others with other credentials overwrite the row, each keeps its own while that will do.
            if stored is None and held is not None and held.purpose == purpose and not _is_due(held):
                return replace(held, look_at=boot_clock() + READ_SECONDS)
            try:
                stored = self._obtain_for_app(sender, account, owner, subject, purpose, refused)
            except (ServiceError, TokenRefused) as err:
                # One that another process fetched is good until its end, whatever the login does.
                if stored is None or not stored.is_valid or stored.value == refused:
                    raise
                _log.warning("token_not_renewed_yet", app_id=sender.id, why=str(err))
        value, now = stored.usable(refused), boot_clock()
        left = (stored.expires_at - stored.now).total_seconds() if stored.expires_at else float("inf")
        look = (stored.renew_at - stored.now).total_seconds() if stored.renew_at else READ_SECONDS
        if stored.is_due:
            look = (stored.retry_at - stored.now).total_seconds() if stored.retry_at else BACK_OFF_SECONDS
        token = Token(value, sender.scheme, stored.expires_at, sender.kind)
        return _Held(token, now + min(max(look, 0.5), READ_SECONDS, left), now + left, purpose)

    # -- of all processes ----------------------------------------------------------------------------

    def _obtain_for_app(
        self,
        sender: _Sender,
        account: Credentials,
        owner: str,
        subject: str,
        purpose: str,
        refused: str | None,
    ) -> Stored:
        from disparo.gupshup import tokens as provider

        def log_in() -> "provider.Fetched":
            if account.kind == "universal":
                return provider.universal_token(
                    self._http(), sender.base_url, account.partner_id, account.email, account.secret
                )
            return provider.partner_token(self._http(), sender.base_url, account.email, account.secret)

        ended: str | None = None
        while True:
            # Never under the app's lock: a process that holds that one waits for the provider only.
            login = self._store.obtain(owner, owner, log_in, ended)
            token, last = login.usable(ended), ended is not None

            def fetch(token: str = token, last: bool = last) -> "provider.Fetched":
                ask = provider.universal_app_token if account.kind == "universal" else provider.app_token
                try:
                    return ask(self._http(), sender.base_url, sender.gs_app_id, token)
                except TokenRefused as err:
                    if err.http_status == 401 and not last:
                        raise _LoginEndedError from err
                    raise

            try:
                return self._store.obtain(subject, purpose, fetch, refused)
            except _LoginEndedError:
                ended = token

    def _http(self) -> "Client":
        from disparo.gupshup.client import Client

        with self._making:
            if self._client is None:
                settings = self._process.settings
                self._client = Client(
                    deadline_seconds=FETCH_SECONDS,
                    ca_bundle=str(settings.ca_bundle) if settings.ca_bundle else None,
                    proxy=settings.proxy.get_secret_value() if settings.proxy else None,
                )
            return self._client


def _is_due(held: _Held) -> bool:
    """Whether a token in memory, of which no row tells more, is in the last five minutes of its life."""
    return held.ends - boot_clock() < 300
