"""Two books compared, message by message: what the sandbox delivered and what the tables say. Pure.

Each recipient of a campaign under test is there once, so a delivery and a row belong together beyond doubt.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from disparo.statuses import ACCEPTED_OR_FURTHER, Status

#: Faults of the sandbox after which nobody can know whether the message was accepted.
AMBIGUOUS = frozenset(
    f"{page}{when}" for page in ("502", "503", "504") for when in ("", "-after")
) | {"close-before", "close-after", "hang", "drip", "cut", "no-id"}  # fmt: skip
#: Codes of unknown messages: their worker was killed, and nobody heard the answer.
DIED = "worker_died"
#: Codes that nothing done here explains: no host was lost, and Disparo itself must not fail.
UNEXPLAINED = ("lease_expired", "internal")


@dataclass(frozen=True, slots=True)
class Row:
    """A message as the tables have it."""

    id: int
    recipient: str
    status: str
    code: str | None = None
    gs_id: str | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message that the sandbox accepted; its recipient would have got it."""

    id: str
    to: str


@dataclass(slots=True)
class Account:
    """What became of the messages of a campaign; each row stands in one of its lists or counts."""

    total: int
    #: Recipients that got the message, at least once.
    delivered: int = 0
    accepted: int = 0
    #: Refused for good and never delivered, by code.
    failed: Counter[str] = field(default_factory=Counter)
    #: By code.
    unknown: Counter[str] = field(default_factory=Counter)
    #: Unknown ones that their recipient got.
    unknown_delivered: int = 0
    #: Without an outcome, or accepted in the tables and never delivered, or not in the tables at all.
    lost: list[str] = field(default_factory=list)
    #: Delivered more than once, whatever the tables say.
    doubled: list[str] = field(default_factory=list)
    #: Failed in the tables although delivered, or accepted under an id that the sandbox did not give.
    lied: list[str] = field(default_factory=list)
    #: In a status that nobody asked for, or delivered to somebody who is no recipient.
    strange: list[str] = field(default_factory=list)


def compare(recipients: Iterable[str], rows: Iterable[Row], deliveries: Iterable[Delivery]) -> Account:
    """The account of a campaign to ``recipients``, each of them once."""
    by_recipient = {row.recipient: row for row in rows}
    ids: dict[str, list[str]] = {}
    for delivery in deliveries:
        ids.setdefault(delivery.to, []).append(delivery.id)
    wanted = list(recipients)
    account = Account(len(wanted))
    for to in wanted:
        _enter(account, to, by_recipient.pop(to, None), ids.pop(to, []))
    account.strange += [*by_recipient, *ids]
    return account


def _enter(account: Account, to: str, row: Row | None, ids: Sequence[str]) -> None:
    account.delivered += bool(ids)
    if len(ids) > 1:
        account.doubled.append(to)
    if row is None or row.status in (Status.PENDING, Status.SENDING):
        account.lost.append(to)
    elif row.status in ACCEPTED_OR_FURTHER:
        account.accepted += 1
        if not ids:
            account.lost.append(to)
        elif row.gs_id not in ids:
            account.lied.append(to)
    elif row.status == Status.FAILED:
        account.failed[row.code or ""] += 1
        if ids:
            account.lied.append(to)
    elif row.status == Status.UNKNOWN:
        account.unknown[row.code or ""] += 1
        account.unknown_delivered += bool(ids)
    else:
        account.strange.append(to)


def broken(account: Account, faults: Mapping[str, int], in_flight: int) -> list[str]:
    """The promises that an account breaks, as sentences; none when all are kept.

    Args:
      faults: How many requests met each of the sandbox's faults.
      in_flight: Requests that the killed workers had in flight when they were killed, all kills together.
    """
    ambiguous = sum(n for fault, n in faults.items() if fault in AMBIGUOUS)
    unknown, died = account.unknown.total(), account.unknown[DIED]
    unexplained = sum(account.unknown[code] for code in UNEXPLAINED)
    answered = unknown - died - unexplained
    found = {
        f"{len(account.lost)} of {account.total} messages were lost": account.lost,
        f"{len(account.doubled)} were delivered twice or more": account.doubled,
        f"{len(account.lied)} were delivered and are failed, or accepted under another id": account.lied,
        f"{len(account.strange)} are in a status, or went to a number, that nobody asked for": account.strange,
        f"{unknown} are unknown, more than {ambiguous} ambiguous faults and {in_flight} requests in flight at "
        "the kills explain": unknown > ambiguous + in_flight,
        f"{died} are unknown because a worker died, and {in_flight} were in flight": died > in_flight,
        f"{answered} are unknown by their answers, and {ambiguous} got an ambiguous one": answered
        > ambiguous,
        f"{unexplained} are unknown for reasons that nothing here explains "
        f"({', '.join(code for code in UNEXPLAINED if account.unknown[code])})": unexplained,
    }
    return [sentence for sentence, is_so in found.items() if is_so]
