"""Events of the provider."""

from sqlalchemy.orm import Session

from disparo.models import WebhookEvent


def make_webhook_event(
    session: Session, gs_id: str, status: str = "delivered", **columns: object
) -> WebhookEvent:
    """A status event that waits to be applied."""
    payload = {"entry": [{"changes": [{"value": {"statuses": [{"gs_id": gs_id, "status": status}]}}]}]}
    event = WebhookEvent(**({"key": f"{gs_id}:{status}:1", "payload": payload} | columns))
    session.add(event)
    session.flush()
    return event
