"""All tables; importing this package makes the metadata complete."""

from disparo.models.app import App, Stop
from disparo.models.campaign import (
    Batch,
    Campaign,
    CampaignContent,
    Counter,
    CounterDelta,
    Import,
    ImportReject,
)
from disparo.models.charge import PIXCharge
from disparo.models.installation import Action, Installation, Notification, Token, Worker
from disparo.models.message import Message, SendError
from disparo.models.portfolio import Portfolio, PortfolioRecipient
from disparo.models.reminder import Reminder
from disparo.models.suppression import Suppression
from disparo.models.webhook_event import WebhookEvent

__all__ = [
    "Action",
    "App",
    "Batch",
    "Campaign",
    "CampaignContent",
    "Counter",
    "CounterDelta",
    "Import",
    "ImportReject",
    "Installation",
    "Message",
    "Notification",
    "PIXCharge",
    "Portfolio",
    "PortfolioRecipient",
    "Reminder",
    "SendError",
    "Stop",
    "Suppression",
    "Token",
    "WebhookEvent",
    "Worker",
]
