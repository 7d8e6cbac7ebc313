"""Reminders."""

from datetime import datetime

from sqlalchemy.orm import Session

from disparo.models import App, Reminder


def make_reminder(
    session: Session,
    app: App,
    due_at: datetime,
    *,
    key: str = "carrinho-1",
    to: str = "5511987650001",
    **columns: object,
) -> Reminder:
    """A scheduled reminder of a cart."""
    content = {
        "messaging_product": "whatsapp",
        "recipient_type": "individual",
        "to": to,
        "type": "text",
        "text": {"body": "Seu carrinho espera"},
    }
    columns = {"status": "scheduled", "content": content} | columns
    reminder = Reminder(
        app_id=app.id, key=key, recipient=to, recipient_key=to[-10:], due_at=due_at, **columns
    )
    session.add(reminder)
    session.flush()
    return reminder
