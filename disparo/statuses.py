"""Message and campaign statuses, app states and lanes: the words, their order and what may follow what; pure."""

from enum import StrEnum


class Status(StrEnum):
    """What is known of a message."""

    PENDING = "pending"  #: waits for its turn, or for ``due_at``
    SENDING = "sending"  #: claimed by a worker; a request may be on its way
    ACCEPTED = "accepted"  #: the provider answered 200 with an id
    ENQUEUED = "enqueued"  #: webhook: Gupshup queued it
    SENT = "sent"  #: webhook: WhatsApp took it
    DELIVERED = "delivered"  #: webhook: it reached the recipient's device
    READ = "read"  #: webhook: the recipient opened it
    FAILED = "failed"  #: refused for good, with code and reason
    UNKNOWN = "unknown"  #: it may have been accepted, and nobody has said so yet
    CANCELLED = "cancelled"  #: stopped by an operator, a conversion or a payment before it was sent
    EXPIRED = "expired"  #: ``not_after`` passed before it was sent
    SUPPRESSED = "suppressed"  #: the recipient opted out or is not on WhatsApp


#: Accepted by the provider, or further.
ACCEPTED_OR_FURTHER = (Status.ACCEPTED, Status.ENQUEUED, Status.SENT, Status.DELIVERED, Status.READ)

#: Nothing more will happen to the message by itself (webhooks may still refine an accepted one).
SETTLED = (*ACCEPTED_OR_FURTHER, Status.FAILED, Status.CANCELLED, Status.EXPIRED, Status.SUPPRESSED)


class CampaignState(StrEnum):
    """draft → importing → scheduled → running ⇄ paused → finished | cancelled."""

    DRAFT = "draft"
    IMPORTING = "importing"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    CANCELLED = "cancelled"


class AppState(StrEnum):
    """Whether an app may send."""

    ACTIVE = "active"
    PAUSED = "paused"


class Lane(StrEnum):
    """What leaves first within an app, in this order."""

    PAYMENT = "payment"
    UTILITY = "utility"
    MARKETING = "marketing"

    @property
    def rank(self) -> int:
        """0 for what leaves first."""
        return list(Lane).index(self)


class LimitedBy(StrEnum):
    """Where the time of a campaign goes."""

    NONE = "none"
    RATE = "rate"
    PAIR = "pair"
    NETWORK = "network"
    DATABASE = "database"
    PAUSED = "paused"
    WINDOW = "window"
    BUDGET = "budget"
    DECISION = "decision"
    NO_WORKER = "no_worker"


class Verdict(StrEnum):
    """What the answer to an attempt means for the message and for what comes after it."""

    ACCEPTED = "accepted"  #: 200 with an id
    RETRY = "retry"  #: refused for now: again after a back-off, up to the attempts of the rule
    THROTTLE = "throttle"  #: too fast: again after the cool-down, spends no attempt
    MESSAGE_PERMANENT = "message_permanent"  #: this message failed; go on
    RECIPIENT_DEFER = "recipient_defer"  #: nothing more of this kind to this recipient for a while
    RECIPIENT_SUPPRESS = "recipient_suppress"  #: this recipient must not be written to
    TEMPLATE_STOP = "template_stop"  #: every message of this template would fail alike
    SENDER_STOP = "sender_stop"  #: every message of this app (or lane) would fail alike
    UNKNOWN = "unknown"  #: it may have been accepted: ask before repeating
