"""What an answer means beyond its message: stops of an app, a lane or a template, cool-downs, and probes."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from disparo import db, log, stops, suppressions, tuning
from disparo.apps import STRANGE_ANSWERS, UNREACHABLE
from disparo.batches import Claimed, Outcome
from disparo.connections import Connections
from disparo.errors import DisparoError, RedisUnavailable
from disparo.gupshup.answers import Judgement
from disparo.statuses import Status, Verdict
from disparo.stops import Fault
from disparo.suppressions import Refusal
from disparo.whatsapp.codes import Table
from worker.pairs import Pairs
from worker.routes import Route, Routes
from worker.view import Probed, View

#: So many requests of an app in a row that got none of the provider's answers stop it.
STREAK = 10
#: Stops that any answer of the provider's ends.
_ABOUT_ANSWERS = (UNREACHABLE, STRANGE_ANSWERS)
_NOT_REACHED = ("connection_failed", "proxy_refused")

logger = log.get(__name__)


class Breakers:
    """Stops what would fail alike: here at once, for the other processes through the table and Redis. Thread-safe."""

    def __init__(
        self,
        connections: Connections,
        view: View,
        routes: Routes,
        table: Table,
        tell: Callable[[str, Exception | str], None],
        pairs: Pairs,
    ) -> None:
        self._connections, self._pairs = connections, pairs
        self._view, self._routes, self._table, self._tell = view, routes, table, tell
        #: By app: answers in a row that were none of the provider's.
        self._streaks: dict[int, int] = {}
        #: By tuned app: answers since the start, throttles apart; and the last epoch that was refused here.
        self._answered: dict[int, int] = {}
        self._slowed: dict[int, int] = {}

    def goes_back(self, probed: tuple[Probed, ...], judgement: Judgement) -> bool:
        """Whether a probe waits again like the others: it was refused for something that is not its own fault."""
        return bool(probed) and (
            judgement.verdict in (Verdict.SENDER_STOP, Verdict.TEMPLATE_STOP)
            or any(stop.code == judgement.code for stop in probed)
        )

    def act(self, row: Claimed, route: Route, judgement: Judgement, probed: tuple[Probed, ...]) -> None:
        """Do what the verdict means beyond this message, before it is recorded."""
        rule, verdict = judgement.rule, judgement.verdict
        if not rule.listed:
            self._tell(
                "unlisted_code", f"code {judgement.code}, HTTP {judgement.http_status}: {judgement.reason}"
            )
        width = _width(row, judgement)
        if width is not None:
            fault = Fault(judgement.code or "refused", judgement.reason, judgement.hint, rule)
            self.trip(row, route, width, fault)
        elif verdict is Verdict.THROTTLE:
            seconds = max(1.0, judgement.retry_after_seconds or rule.base_seconds)
            if route.tuning:
                self._view.cool(row.app_id, seconds)
            self.cool_down(row.app_id, seconds)
            if route.tuning:
                self._slow_down(route, judgement, seconds)
        elif verdict is Verdict.RETRY and rule.scope == "app" and judgement.recognised:
            # Maintenance of the number: the others would only be told the same.
            self.cool_down(row.app_id, max(1.0, judgement.retry_after_seconds or rule.base_seconds))
        elif verdict is Verdict.RETRY and rule.pair:
            self._pairs.refused(row, route, rule)
        if route.tuning and judgement.recognised and verdict is not Verdict.THROTTLE:
            # An estimate: two threads at once may lose one.
            self._answered[row.app_id] = self._answered.get(row.app_id, 0) + 1
        strange = self._count(row, route, judgement)
        if probed:
            self._settle_probe(row, judgement, probed, width, strange)

    def refuse(self, row: Claimed, route: Route, fault: Fault) -> None:
        """Stop the app of ``row`` before anything of it was sent."""
        self.trip(row, route, ("app", ""), fault)
        if not self._view.probed(row):
            return
        try:
            with self._connections.session() as session:
                stops.fail_probe(session, row.id, "app", "", fault, db.now(session))
        except (DisparoError, DBAPIError) as err:
            self._tell("probe_not_settled", err)

    def trip(self, row: Claimed, route: Route, width: tuple[str, str], fault: Fault) -> None:
        """Stop an app, a lane or a template (scope and key), because ``row`` met the fault."""
        scope, key = width
        self._view.trip((row.app_id, scope, key))
        try:
            with self._connections.session() as session:
                tripped = stops.trip(
                    session,
                    row.app_id,
                    scope,
                    key,
                    fault,
                    now=db.now(session),
                    epoch=route.epoch,
                    message_id=row.id,
                )
                held = tripped or stops.is_stopped(session, row.app_id, scope, key)
            if tripped:
                logger.error(
                    "stopped",
                    app=route.name,
                    scope=scope,
                    key=key,
                    code=fault.code,
                    reason=fault.reason,
                    hint=fault.hint,
                )
                self._publish(row.app_id, fault.reason if scope == "app" else None)
            if not held:
                # The request was older than the last resume: it tells of a fault that was mended since.
                self._view.untrip((row.app_id, scope, key))
                self._routes.forget()
        except (DisparoError, DBAPIError) as err:
            self._tell("stop_not_stored", err)

    def follow(self, session: Session, outcomes: Sequence[Outcome], now: datetime) -> list[tuple[int, str]]:
        """What recorded failures mean beyond their messages: recipients to leave alone, templates that fit nobody.

        Called last in the transaction that recorded them; `tell_of` what it returns once that is committed.
        """
        failed = [
            (one, self._table.lookup(one.code or "", one.http_status))
            for one in outcomes
            if one.status is Status.FAILED
        ]
        if not failed:
            return []
        stopped: list[tuple[int, str]] = []
        if mismatched := [(one, rule) for one, rule in failed if rule.mismatch]:
            last, rule = mismatched[-1]
            fault = Fault(last.code or rule.code, last.reason or rule.sentence, rule.hint, rule)
            codes = [rule.code for rule in self._table.rules if rule.mismatch]
            ids = [one.message_id for one, _ in mismatched]
            stopped = stops.trip_mismatched(session, ids, codes, fault, now)
        suppressions.note_refusals(
            session,
            [Refusal(one.message_id, one.code or rule.code, one.reason or "", rule) for one, rule in failed],
            now,
        )
        return stopped

    def tell_of(self, found: list[tuple[int, str]]) -> None:
        """Hold templates (app id, template) that `follow` stopped: here at once, elsewhere as soon as may be."""
        for app_id, template in found:
            self._view.trip((app_id, "template", template))
            logger.error("stopped", app_id=app_id, scope="template", key=template)
        if found:
            self._publish(found[0][0], None)

    def _publish(self, app_id: int, reason: str | None) -> None:
        try:
            if reason is not None:
                self._connections.limiter.stop(app_id, reason)
            self._connections.limiter.announce()
        except RedisUnavailable as err:
            self._tell("redis_unavailable", err)

    def cool_down(self, app_id: int, seconds: float) -> None:
        """Let nothing of an app leave for so long."""
        try:
            self._connections.limiter.cool_down(app_id, seconds)
        except RedisUnavailable as err:
            self._tell("redis_unavailable", err)

    def answered(self) -> dict[int, int]:
        """By tuned app, the answers since this process started: those that the provider bore."""
        return dict(self._answered)

    def _slow_down(self, route: Route, judgement: Judgement, seconds: float) -> None:
        """Ask for less from now on; of the many that were under way, the first refused one does it."""
        if self._slowed.get(route.app_id) == route.tuning_epoch:
            return
        self._slowed[route.app_id] = route.tuning_epoch
        try:
            with self._connections.session() as session:
                changed = tuning.refuse(session, route.app_id, route.tuning_epoch, seconds, db.now(session))
            self._routes.forget()
            if changed is not None:
                logger.warning(
                    "slowed_down",
                    app=route.name,
                    code=judgement.code,
                    rate=round(changed.rate, 3),
                    refused=round(changed.was, 3),
                )
                self._connections.limiter.announce()
        except RedisUnavailable as err:
            # Routes are read anew within a second.
            self._tell("redis_unavailable", err)
        except (DisparoError, DBAPIError) as err:
            # The next refusal does it.
            self._slowed.pop(route.app_id, None)
            self._tell("rate_not_stored", err)

    def _count(self, row: Claimed, route: Route, judgement: Judgement) -> Fault | None:
        """Count what was none of the provider's answers, and stop the app after several in a row."""
        if judgement.recognised or judgement.verdict is Verdict.THROTTLE:
            self._streaks.pop(row.app_id, None)
            return None
        if judgement.verdict is Verdict.SENDER_STOP:
            return None
        n = self._streaks[row.app_id] = self._streaks.get(row.app_id, 0) + 1
        not_reached = judgement.code in _NOT_REACHED
        rule = self._table.lookup(UNREACHABLE if not_reached else STRANGE_ANSWERS)
        said = f": {judgement.reason}" if judgement.reason else ""
        fault = Fault(rule.code, f"{rule.sentence} The last one{said}", rule.hint, rule)
        if n >= STREAK:
            # Not again for each that was under way.
            self._streaks[row.app_id] = 0
            self.trip(row, route, ("app", ""), fault)
        return fault

    def _settle_probe(
        self,
        row: Claimed,
        judgement: Judgement,
        probed: tuple[Probed, ...],
        width: tuple[str, str] | None,
        strange: Fault | None,
    ) -> None:
        """End or keep the stops of which ``row`` was the probe."""
        about_answers = any(stop.code in _ABOUT_ANSWERS for stop in probed)
        same = next((stop for stop in probed if stop.code == judgement.code), None)
        try:
            with self._connections.session() as session:
                now = db.now(session)
                ended = []
                if width is not None:
                    fault = Fault(
                        judgement.code or "refused", judgement.reason, judgement.hint, judgement.rule
                    )
                    stops.fail_probe(session, row.id, *width, fault, now)
                elif same is not None:
                    fault = Fault(same.code, judgement.reason, judgement.hint, judgement.rule)
                    stops.fail_probe(session, row.id, same.scope, same.key, fault, now)
                elif judgement.verdict is Verdict.ACCEPTED:
                    ended = stops.pass_probe(session, row.id, now)
                elif strange is not None and about_answers:
                    stops.fail_probe(session, row.id, "app", "", strange, now)
                else:
                    if about_answers:
                        # Any answer of the provider's shows that it is reached.
                        ended = stops.pass_probe(session, row.id, now, codes=_ABOUT_ANSWERS)
                    told = judgement.verdict in (Verdict.RETRY, Verdict.THROTTLE, Verdict.UNKNOWN)
                    after: timedelta = stops.LATER if told else stops.SOON
                    stops.repeat_probe(session, row.id, after, now)
                whole = any(stop.scope == "app" for stop in ended)
            if ended:
                logger.info("resumed", app_id=row.app_id, stops=[f"{s.scope} {s.key}".strip() for s in ended])
                if whole:
                    self._connections.limiter.resume(row.app_id)
                self._connections.limiter.announce()
        except (DisparoError, DBAPIError) as err:
            # Named again when it is taken for lost.
            self._tell("probe_not_settled", err)


def _width(row: Claimed, judgement: Judgement) -> tuple[str, str] | None:
    """Scope and key of what would fail alike; None when it is this message's own."""
    rule, verdict = judgement.rule, judgement.verdict
    if verdict is Verdict.TEMPLATE_STOP:
        # A message without a template says nothing about others.
        return ("template", row.template) if row.template else None
    if rule.scope == "lane" and verdict in (Verdict.SENDER_STOP, Verdict.THROTTLE):
        # Only the lane is held: payments go on while WhatsApp restricts marketing.
        return "lane", rule.scope_key or row.lane
    return ("app", "") if verdict is Verdict.SENDER_STOP else None
