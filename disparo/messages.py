"""Single messages: accept one, look one up."""

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import or_, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from disparo.actions import history
from disparo.errors import ConflictError, Fault, InputError, NotFoundError, PayloadError
from disparo.models import App, Campaign, Message, SendError
from disparo.phone import Phone
from disparo.rendering import compile_content
from disparo.statuses import Lane, Status
from disparo.whatsapp import compositions, orders, payloads

#: The longest key of a message.
KEY_LENGTH = 200


def compose(document: Any, to: Phone, *, raw: bool = False) -> dict[str, Any]:
    """The JSON value for the wire from a message as in the provider's pages, its envelope present or not.

    Args:
      document: The JSON object, or one of the messages that ``disparo`` has in Python, such as ``Text``.
      raw: Send it unchecked, as ``raw: true`` beside its type does.

    Raises:
      PayloadError: It breaks a rule of WhatsApp; carries each fault with its path.
    """
    if isinstance(document, compositions.Message):
        document = document.message()
    envelope, message = payloads.split(document)
    if not (raw or payloads.is_raw(document)):
        # Whatever `to` says, the message goes to the recipient that was given.
        around = {key: value for key, value in envelope.items() if key != "to"}
        faults = unfilled(around | message) or payloads.check(message)
        if faults := [*faults, *payloads.check_envelope(around, message)]:
            raise PayloadError(faults)
    return payloads.wire(to.digits, message, envelope)


def _placeholders(content: Any, path: str = "") -> dict[str, frozenset[str]]:
    """JSON path of each value that holds a placeholder → the columns it names; none where it cannot be read."""
    if isinstance(content, str):
        if "{{" not in content and "{%" not in content:
            return {}
        try:
            return {path: compile_content({"value": content}).columns}
        except InputError:
            return {path: frozenset()}
    if isinstance(content, dict):
        parts = [(f"{path}.{key}".removeprefix("."), item) for key, item in content.items()]
    elif isinstance(content, list):
        parts = [(f"{path}[{place}]", item) for place, item in enumerate(content)]
    else:
        return {}
    return {at: names for below, item in parts for at, names in _placeholders(item, below).items()}


def unfilled(message: dict[str, Any]) -> list[Fault]:
    """Placeholders that nobody will fill: only a campaign has columns for them."""
    faults = []
    for path, columns in _placeholders(message).items():
        shown = ", ".join(f"{{{{ {name} }}}}" for name in sorted(columns)) or "{{ … }}"
        faults.append(
            Fault(
                path,
                f"{shown} would be sent as it stands; write the value, or launch a campaign with that column",
            )
        )
    return faults


def add(
    session: Session,
    app: App,
    to: Phone,
    content: dict[str, Any],
    *,
    lane: str = Lane.UTILITY,
    key: str | None = None,
    due_at: datetime,
    now: datetime,
    not_after: datetime | None = None,
) -> tuple[Message, bool]:
    """Accept one message with its content for the wire; the second value is False when ``key`` had it already.

    The caller commits, and enqueues what is due after the commit.

    Args:
      content: As `compose` gives it. A request for payment is too late 300 seconds before its order expires.
      key: The producer's name of the message, unique per app: the same key with the same content is the
        same message.

    Raises:
      ConflictError: The key names a message with another recipient or content.
      InputError: The key is too long, ``not_after`` is not after ``due_at``, or the order expires too soon.
    """
    if key is not None and not (0 < len(key) <= KEY_LENGTH and key.isprintable()):
        raise InputError(f"a key has 1 to {KEY_LENGTH} printable characters")
    if not_after is not None and not_after <= due_at:
        raise InputError("not_after must be later than the instant at which the message may leave")
    digest = content_digest(content)
    _, message = payloads.split(content)
    expires_at = orders.expires_at(orders.find(message) or {})
    if expires_at is not None:
        not_after = min(not_after or expires_at, expires_at - orders.SHORTEST)
    # A job that names it goes out with the commit; the scheduler looks again only when that one is lost.
    statement = (
        insert(Message)
        .values(
            app_id=app.id,
            lane=lane,
            recipient=to.digits,
            recipient_key=to.key,
            key=key,
            content=content,
            template=payloads.template_name(message),
            content_digest=digest,
            due_at=due_at,
            not_after=not_after,
            released_at=now if due_at <= now else None,
        )
        .on_conflict_do_nothing(index_elements=["app_id", "key"], index_where=Message.key.is_not(None))
        .returning(Message)
    )
    added = session.scalars(statement).one_or_none()
    if added is not None:
        if expires_at is not None and not_after is not None and not_after <= due_at:
            raise InputError(
                f"the order expires at {expires_at:%Y-%m-%d %H:%M:%S} UTC, less than 300 seconds after the message may "
                "leave; WhatsApp refuses that. Give its order.expiration a later timestamp"
            )
        return added, True
    known = session.scalars(select(Message).where(Message.app_id == app.id, Message.key == key)).one()
    if known.content_digest != digest:
        raise ConflictError(
            f"key {key!r} of app {app.name} already names message {known.id} with another recipient or content; "
            "nothing was sent. Use another key for another message"
        )
    return known, False


def as_json(content: dict[str, Any]) -> str:
    """A content as the text that is kept and sent: ASCII, so that no server on the way can misread it."""
    return json.dumps(content, separators=(",", ":"))


def from_json(text: str) -> dict[str, Any]:
    """A content back from its text."""
    content: dict[str, Any] = json.loads(text)
    return content


def content_digest(content: dict[str, Any]) -> str:
    """sha256 of a content's meaning: key order and white space do not count."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def find(session: Session, reference: str) -> Message:
    """The message of that id, key, provider id or wamid.

    Raises:
      NotFoundError: There is none.
      ConflictError: A key that several apps use.
    """
    by = [Message.key == reference, Message.gs_id == reference, Message.wamid == reference]
    if reference.isascii() and reference.isdigit() and len(reference) <= 18:
        message = session.get(Message, int(reference))
        if message is not None:
            return message
    found = list(session.scalars(select(Message).where(or_(*by)).order_by(Message.id).limit(10)))
    if not found:
        # The id of an attempt before the last one.
        earlier = select(SendError.message_id).where(
            or_(SendError.gs_id == reference, SendError.wamid == reference)
        )
        found = list(
            session.scalars(select(Message).where(Message.id.in_(earlier)).order_by(Message.id).limit(10))
        )
    if not found:
        raise NotFoundError(f"no message has the id, key or provider id {reference!r}")
    if len(found) > 1:
        ids = ", ".join(str(message.id) for message in found)
        raise ConflictError(f"{reference!r} fits several messages; name one by its id: {ids}")
    return found[0]


def describe(session: Session, message: Message) -> dict[str, Any]:
    """What ``message show --json`` prints; the recipient in full is for the caller to mask."""
    app = session.get_one(App, message.app_id)
    campaign = session.get(Campaign, message.campaign_id) if message.campaign_id else None
    errors = session.scalars(
        select(SendError).where(SendError.message_id == message.id).order_by(SendError.id)
    )
    instants = [
        "created",
        "due",
        "not_after",
        "accepted",
        "enqueued",
        "sent",
        "delivered",
        "read",
        "failed",
        "settled",
    ]
    names = [name if name == "not_after" else f"{name}_at" for name in instants]
    return {
        "id": message.id,
        "key": message.key,
        "app": app.name,
        "campaign": campaign.name if campaign else None,
        "line": message.line,
        "lane": message.lane,
        "to": message.recipient,
        "state": message.status,
        "provider_id": message.gs_id,
        "code": message.code,
        "reason": message.reason,
        "attempts": message.attempts,
        "version": message.version,
        "moved_to": message.moved_to,
        "matched_by": message.matched_by,
        **{name: instant.isoformat() if (instant := getattr(message, name)) else None for name in names},
        "errors": [
            {
                "attempt": error.attempt,
                "at": error.at.isoformat(),
                "verdict": error.verdict,
                "http_status": error.http_status,
                "code": error.code,
                "reason": error.text,
                "provider_id": error.gs_id,
            }
            for error in errors
        ],
        "history": history(session, f"message:{message.id}"),
    }


#: A message that was claimed earlier has left, or never will: no lease is longer.
_LONGEST_CLAIM = timedelta(seconds=100)
_SENT_LATELY = text("""
    SELECT recipient_key, count(*), max(left_at) FROM (
        SELECT recipient_key, CASE WHEN status = 'sending' THEN CAST(:now AS timestamptz)
            ELSE greatest(claimed_at, accepted_at, failed_at, settled_at) END AS left_at
        FROM messages WHERE app_id = :app_id AND recipient_key = ANY(:keys) AND id <> ALL(:but)
            AND claimed_at > CAST(:since AS timestamptz) - CAST(:longest AS interval)) AS lately
    WHERE left_at > :since GROUP BY recipient_key""")


def sent_lately(
    session: Session,
    app_id: int,
    recipient_keys: Sequence[str],
    but: Sequence[int],
    since: datetime,
    now: datetime,
) -> dict[str, tuple[int, datetime]]:
    """By recipient: how many messages an app may have sent to it since then, and when the last one at the latest.

    What was claimed counts, whatever became of it; what is sending may leave at any time.

    Args:
      but: Ids of messages that do not count.
    """
    values = {"app_id": app_id, "keys": list(recipient_keys), "but": list(but), "since": since, "now": now}
    rows = session.execute(_SENT_LATELY, values | {"longest": _LONGEST_CLAIM})
    return {key: (int(n), last) for key, n, last in rows}


def cancel_pending(session: Session, message_ids: list[int], now: datetime) -> list[int]:
    """Cancel those of the messages that no worker has claimed; their ids."""
    from disparo.counters import add_deltas

    if not message_ids:
        return []
    pending = (
        select(Message)
        .where(Message.id.in_(message_ids), Message.status == Status.PENDING)
        .order_by(Message.id)
        .with_for_update()
    )
    cancelled = list(session.scalars(pending))
    for message in cancelled:
        message.status, message.settled_at = Status.CANCELLED, now
        add_deltas(
            session, [(message.campaign_id, Status.PENDING, -1), (message.campaign_id, Status.CANCELLED, 1)]
        )
    session.flush()
    return [message.id for message in cancelled]
