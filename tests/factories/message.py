"""Messages."""

from sqlalchemy.orm import Session

from disparo.models import App, Campaign, Message
from disparo.statuses import Lane


def make_message(session: Session, app: App, to: str = "5511987650001", **columns: object) -> Message:
    """A single pending message with a text of its own; due at once unless ``due_at`` says otherwise."""
    content = {
        "messaging_product": "whatsapp",
        "recipient_type": "individual",
        "to": to,
        "type": "text",
        "text": {"body": "Oi"},
    }
    columns = {"lane": Lane.UTILITY, "content": content, "recipient_key": to[-10:]} | columns
    message = Message(app_id=app.id, recipient=to, **columns)
    session.add(message)
    session.flush()
    return message


def make_messages(
    session: Session, app: App, n: int, *, campaign: Campaign, lane: str, **columns: object
) -> list[Message]:
    """``n`` pending rows of a campaign; their numbers end in 0000, 0001, …"""
    made = [
        Message(
            app_id=app.id,
            campaign_id=campaign.id,
            lane=lane,
            recipient=f"551198765{line:04}",
            recipient_key=f"1198765{line:04}",
            line=line + 2,
            params={"nome": f"Cliente {line}"},
            **columns,
        )
        for line in range(n)
    ]
    session.add_all(made)
    session.flush()
    return made
