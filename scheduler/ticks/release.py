"""What may leave next: about two seconds of its rate are kept in the queue for each lane of each app."""

from collections import deque
from collections.abc import Callable

from sqlalchemy import text
from sqlalchemy.orm import Session

from disparo import batches, campaigns, db, recovery, releases, stops
from disparo.batches import Job
from disparo.connections import Connections
from disparo.queue import BULK, URGENT
from disparo.releases import Turns
from disparo.statuses import Lane

#: Whose turn it is, as this process's releases have left it.
_turns = Turns()


def run(connections: Connections, session: Session) -> Callable[[], None]:
    """Start scheduled campaigns, expire what is too late, name the next work; enqueue it after the commit."""
    now = db.now(session)
    stopped = session.execute(
        text("""
            SELECT a.id, s.reason FROM apps a LEFT JOIN stops s
                ON s.app_id = a.id AND s.scope = 'app' AND s.ended_at IS NULL
            ORDER BY s.key""")  # the send fence's last, which counts
    ).all()
    connections.limiter.publish_stops(dict(stopped))
    emptied = connections.limiter.was_emptied()
    if emptied:
        recovery.release_everything_again(session)
    campaigns.start_due(session, now)
    campaigns.expire(session, now)
    shut = campaigns.shut(session, now, connections.settings.zone)
    # At a slow rate, or where no worker was there, it would leave long after the window was shut.
    batches.take_back(session, shut)
    jobs = stops.as_jobs(stops.release_probes(session, now, shut=shut))
    jobs += releases.release(session, now, _turns, shut=shut)

    def after() -> None:
        # Marked after the commit: a tick that dies before it is made up for by the next.
        if emptied:
            connections.limiter.mark()
        enqueue(connections, jobs)

    return after


def enqueue(connections: Connections, jobs: list[Job]) -> None:
    """Name jobs to the workers. Those that cannot be enqueued are named again by the next tick."""
    left = deque(jobs)
    try:
        while left:
            job = left[0]
            queue = URGENT if job.lane == Lane.PAYMENT else BULK
            if job.batch_id is not None:
                connections.queue.send_batch(job.batch_id, queue=queue)
            else:
                connections.queue.send_messages(job.app_id, job.message_ids, queue=queue)
            left.popleft()
    finally:
        if left:
            # The first of them may be in the queue all the same; a job that comes twice finds nothing to claim.
            with connections.session() as session:
                batches.hand_back(
                    session,
                    [job.batch_id for job in left if job.batch_id is not None],
                    [message_id for job in left for message_id in job.message_ids],
                )
