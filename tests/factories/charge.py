"""PIX charges."""

from sqlalchemy.orm import Session

from disparo.models import App, PIXCharge


def make_charge(session: Session, app: App, reference: str = "fatura-1", **columns: object) -> PIXCharge:
    """A charge of R$ 15.00 that is not paid."""
    charge = PIXCharge(**({"app_id": app.id, "reference": reference, "amount_cents": 1500} | columns))
    session.add(charge)
    session.flush()
    return charge
