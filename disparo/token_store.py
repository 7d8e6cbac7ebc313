"""Table ``tokens``: what was fetched from the provider, encrypted, and the lock under which one process fetches.

A failure is kept in the row too, so that nobody repeats it at once.
"""

import json
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from sqlalchemy import delete, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from disparo import log
from disparo.errors import DatabaseUnavailable, TokenRefused, TokenUnavailable
from disparo.models import Token
from disparo.settings import Settings

# Most commands need neither cryptography nor requests, whose import takes as long as they do.
if TYPE_CHECKING:
    from disparo.encryption import Box
    from disparo.gupshup.tokens import Fetched

_log = log.get(__name__)

#: How long to wait for another process that is fetching, which may have to renew its login as well.
LOCK_SECONDS = 15
#: The longest that a process may take over a fetch, while others wait for its lock.
HOLD_SECONDS = 30
#: A token that was fetched within this time because one was refused, and is refused too, is not fetched again.
FRESH_SECONDS = 60.0
#: After a failure: this long, then twice as long, … at most the second.
BACK_OFF_SECONDS, LONGEST_BACK_OFF_SECONDS = 5.0, 60.0
#: No token is renewed sooner: 10 requests in a minute are allowed.
_SOONEST_SECONDS = 6.0
#: SQLSTATE of a lock that was not got in time.
_LOCK_NOT_AVAILABLE = "55P03"
#: Rows that nobody needs any more, such as those of former credentials.
_KEPT_DAYS = 30


class Process(Protocol):
    """What is needed of a process's connections."""

    @property
    def settings(self) -> Settings: ...
    def session(self) -> AbstractContextManager[Session]: ...


@dataclass(frozen=True, slots=True)
class Stored:
    """A row of table ``tokens``, opened. Instants are of the database's clock."""

    now: datetime
    fetched_at: datetime
    value: str | None = field(default=None, repr=False)
    expires_at: datetime | None = None
    error: str = ""
    #: The error is a refusal, not a passing one.
    is_refusal: bool = False
    failures: int = 0
    retry_at: datetime | None = None
    #: It was fetched because the one before was refused.
    is_renewal: bool = False

    @property
    def renew_at(self) -> datetime | None:
        """A tenth of its life before its end, and at least five minutes; of a short life, half of it."""
        if self.expires_at is None:
            return None
        life = self.expires_at - self.fetched_at
        margin = min(max(life / 10, timedelta(minutes=5)), life / 2)
        return max(self.expires_at - margin, self.fetched_at + timedelta(seconds=_SOONEST_SECONDS))

    @property
    def is_valid(self) -> bool:
        return self.value is not None and (self.expires_at is None or self.expires_at > self.now)

    @property
    def is_due(self) -> bool:
        """Whether it is time to fetch, unless a failure says to wait."""
        return not self.is_valid or (self.renew_at is not None and self.renew_at <= self.now)

    @property
    def waits(self) -> bool:
        """Whether the last failure is too recent to ask again."""
        return self.retry_at is not None and self.retry_at > self.now

    def will_do(self, refused: str | None) -> bool:
        """Whether nobody is to ask the provider now; ``refused`` is a token that it does not take any more."""
        if self.waits:
            return True
        if refused is not None and self.value == refused:
            return self.is_renewal and (self.now - self.fetched_at).total_seconds() < FRESH_SECONDS
        return not self.is_due

    def usable(self, refused: str | None) -> str:
        """The token; one that was ``refused`` only when the provider has given it again since.

        Raises:
          TokenRefused, TokenUnavailable: Why there is none.
        """
        if self.value is not None and self.is_valid and not (self.waits and self.value == refused):
            return self.value
        raise TokenRefused(self.error) if self.is_refusal else TokenUnavailable(self.error)


class TokenStore:
    """The stored tokens, for the processes that have the same key."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._making = threading.Lock()
        self._box: Box | None = None
        self._unreadable: set[str] = set()

    def mark(self, text: str) -> str:
        """A short mark of ``text`` that tells nothing of it to who has not the key."""
        return self._vault().mark(text)

    def find(self, subject: str, purpose: str) -> Stored | None:
        """The row of ``subject``, if it was fetched for this ``purpose`` and can be opened."""
        with self._process.session() as session:
            return self._read(session, subject, purpose)

    def obtain(
        self, subject: str, purpose: str, fetch: "Callable[[], Fetched]", refused: str | None
    ) -> Stored:
        """The stored token of ``subject`` when it will do, else a new one; by one process at a time.

        A failure is stored too, so that the others do not repeat it; a token that is still valid stays with it.
        """
        try:
            with self._process.session() as session:
                stored = self._read(session, subject, purpose)
                if stored is not None and stored.will_do(refused):
                    return stored
                session.execute(
                    text(
                        "SELECT set_config('lock_timeout', :lock, true), "
                        # A host that is lost with its network would hold the lock for hours.
                        "set_config('idle_in_transaction_session_timeout', :idle, true)"
                    ),
                    {"lock": f"{LOCK_SECONDS}s", "idle": f"{HOLD_SECONDS}s"},
                )
                session.execute(
                    text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 24))"),
                    {"name": f"{subject} {self._vault().key_id}"},
                )
                stored = self._read(session, subject, purpose)
                if stored is not None and stored.will_do(refused):
                    return stored
                try:
                    fetched = fetch()
                except (TokenUnavailable, TokenRefused) as err:
                    _log.warning("token_not_fetched", subject=subject, why=str(err))
                    self._write_failure(session, subject, purpose, stored, err, refused)
                else:
                    self._write(session, subject, purpose, stored, fetched, refused)
                    _log.info("token_fetched", subject=subject, ends_at=str(fetched.expires_at))
                written = self._read(session, subject, purpose)
                assert written is not None  # noqa: S101 - it has just been written
                return written
        except DatabaseUnavailable as err:
            if getattr(getattr(err.__cause__, "orig", None), "sqlstate", None) == _LOCK_NOT_AVAILABLE:
                raise TokenUnavailable("another process has been fetching the token for too long") from err
            raise

    def _read(self, session: Session, subject: str, purpose: str) -> Stored | None:
        vault = self._vault()
        row = session.execute(
            select(
                Token.ciphertext,
                Token.fetched_at,
                Token.expires_at,
                func.clock_timestamp().label("now"),
            ).where(Token.subject == subject, Token.key_id == vault.key_id)
        ).one_or_none()
        if row is None:
            return None
        opened = vault.open(row.ciphertext, subject)
        if opened is None:
            if subject not in self._unreadable:
                self._unreadable.add(subject)
                _log.warning("token_unreadable", subject=subject, what="it is fetched anew")
            return None
        content = json.loads(opened)
        if content["purpose"] != purpose:
            return None
        retry_at = content["retry_at"]
        return Stored(
            row.now,
            row.fetched_at,
            content["value"],
            row.expires_at,
            content["error"],
            content["is_refusal"],
            content["failures"],
            datetime.fromisoformat(retry_at) if retry_at else None,
            content["is_renewal"],
        )

    def _write(
        self,
        session: Session,
        subject: str,
        purpose: str,
        stored: Stored | None,
        fetched: "Fetched",
        refused: str | None,
    ) -> None:
        now = session.execute(select(func.clock_timestamp())).scalar_one()
        is_renewal = refused is not None and stored is not None and stored.value == refused
        row = Stored(now, now, fetched.value, fetched.expires_at, is_renewal=is_renewal)
        self._put(session, subject, purpose, row)
        old = now - timedelta(days=_KEPT_DAYS)
        session.execute(delete(Token).where(Token.expires_at < old))

    def _write_failure(
        self,
        session: Session,
        subject: str,
        purpose: str,
        stored: Stored | None,
        err: TokenUnavailable | TokenRefused,
        refused: str | None,
    ) -> None:
        now = session.execute(select(func.clock_timestamp())).scalar_one()
        failures = (stored.failures if stored else 0) + 1
        wait = LONGEST_BACK_OFF_SECONDS
        if isinstance(err, TokenUnavailable):
            wait = max(min(BACK_OFF_SECONDS * 2 ** min(failures - 1, 10), wait), err.retry_seconds)
        failed = Stored(
            now,
            stored.fetched_at if stored else now,
            # One that is refused is of no use to anybody else either.
            stored.value if stored and stored.value != refused else None,
            stored.expires_at if stored else None,
            str(err),
            isinstance(err, TokenRefused),
            failures,
            now + timedelta(seconds=wait),
            stored.is_renewal if stored else False,
        )
        self._put(session, subject, purpose, failed)

    def _put(self, session: Session, subject: str, purpose: str, stored: Stored) -> None:
        vault = self._vault()
        content = {
            "purpose": purpose,
            "value": stored.value,
            "error": stored.error,
            "is_refusal": stored.is_refusal,
            "failures": stored.failures,
            "retry_at": stored.retry_at.isoformat() if stored.retry_at else None,
            "is_renewal": stored.is_renewal,
        }
        values = {
            "ciphertext": vault.seal(json.dumps(content), subject),
            "fetched_at": stored.fetched_at,
            "expires_at": stored.expires_at,
        }
        session.execute(
            insert(Token)
            .values(subject=subject, key_id=vault.key_id, **values)
            .on_conflict_do_update(index_elements=["subject", "key_id"], set_=values)
        )

    def _vault(self) -> "Box":
        from disparo.encryption import box

        with self._making:
            if self._box is None:
                settings = self._process.settings
                key = settings.encryption_key
                self._box = box(settings.home, key.get_secret_value() if key else None)
            return self._box
