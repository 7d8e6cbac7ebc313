"""The obvious way to do it, to compare with: a Celery task per message, ``requests.post``, an ORM commit.

``celery -A benchmarks.naive worker``; servers and endpoint come from ``BENCH_*`` variables.
"""

import os
from datetime import UTC, datetime

import requests
from celery import Celery
from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

app = Celery("naive", broker=os.environ["BENCH_BROKER_URL"])
app.conf.update(task_ignore_result=True)
engine = create_engine(os.environ["BENCH_DATABASE_URL"], pool_size=5)


class _Base(DeclarativeBase):
    pass


class SentMessage(_Base):
    """What a naive sender keeps."""

    __tablename__ = "bench_naive_messages"

    id: Mapped[int] = mapped_column(primary_key=True)
    recipient: Mapped[str]
    status: Mapped[str]
    provider_id: Mapped[str]
    sent_at: Mapped[datetime]


def create_table() -> None:
    """Make its table anew."""
    _Base.metadata.drop_all(engine)
    _Base.metadata.create_all(engine)


def sent() -> int:
    """How many messages have an outcome."""
    with Session(engine) as session:
        return session.scalar(select(func.count()).select_from(SentMessage)) or 0


@app.task(name="bench.send")
def send(url: str, token: str, recipient: str, first_name: str, number: str) -> None:
    """Send one message and keep its outcome."""
    body = {
        "messaging_product": "whatsapp",
        "recipient_type": "individual",
        "to": recipient,
        "type": "text",
        "text": {"body": f"{first_name}, o pedido {number} foi enviado"},
    }
    answer = requests.post(url, json=body, headers={"Authorization": token}, timeout=30)
    answer.raise_for_status()
    with Session(engine) as session:
        session.add(
            SentMessage(
                recipient=recipient,
                status="accepted",
                provider_id=answer.json()["messages"][0]["id"],
                sent_at=datetime.now(UTC),
            )
        )
        session.commit()
