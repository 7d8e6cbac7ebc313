"""``disparo app check``: is an app ready to send, without sending."""

from typing import TYPE_CHECKING

import typer

from disparo.cli.app import Name
from disparo.cli.output import JSON, connected, note, print_json, print_table, say

if TYPE_CHECKING:
    from disparo.connections import Connections
    from disparo.gupshup.account import Finding
    from disparo.models import App


def check(name: Name, as_json: JSON = False) -> None:
    """Ask the provider for the token, health, wallet and quality of an app, without sending."""
    from disparo import apps, tokens

    with connected() as connections:
        with connections.session() as session:
            app = apps.get(session, name)
            paused = apps.describe(session, app)["reason"]
        findings = _findings(connections, app)
    bad = any(finding.result == "bad" for finding in findings)
    warning = tokens.warning(app)
    if as_json:
        print_json(
            {
                "name": name,
                "ok": not bad,
                "paused": paused,
                "warning": warning,
                "checks": [
                    {
                        "subject": finding.subject,
                        "result": finding.result,
                        "sentence": finding.sentence,
                        **finding.details,
                    }
                    for finding in findings
                ],
            }
        )
    else:
        print_table(
            ("what", "result", ""),
            [(finding.subject, finding.result, finding.sentence) for finding in findings],
        )
        if paused:
            say(f"{name} is paused here: {paused}")
        if warning:
            note(f"warning: {warning}")
    if bad:
        raise typer.Exit(1)


def _findings(connections: "Connections", app: "App") -> "list[Finding]":
    from disparo import tokens
    from disparo.errors import ServiceError, SettingsError
    from disparo.gupshup.account import Account, Finding, Result
    from disparo.gupshup.client import Client

    settings, held = connections.settings, tokens.Tokens(connections)
    client = Client(
        deadline_seconds=tokens.FETCH_SECONDS,
        ca_bundle=str(settings.ca_bundle) if settings.ca_bundle else None,
        proxy=settings.proxy.get_secret_value() if settings.proxy else None,
    )
    try:
        token = held.get(app.id)
        account = Account(client, app.base_url or settings.base_url, app.gs_app_id, token.authorization)
        health, is_refused = account.health()
        if is_refused and held.renew(app.id, token):
            token = held.get(app.id)
            account = Account(client, app.base_url or settings.base_url, app.gs_app_id, token.authorization)
            health, is_refused = account.health()
        said = tokens.in_words(connections.environment, app, token.expires_at)
        if is_refused:
            return [Finding("token", Result.BAD, f"{health.sentence}. {tokens.remedy(app)}")]
        others = [health, account.wallet(), account.quality()]
        if all(one.result is not Result.OK for one in others):
            # Only an answer shows that the provider takes it.
            return [
                Finding("token", Result.NOT_CHECKED, f"{said}; no answer tells whether it is taken"),
                *others,
            ]
        return [Finding("token", Result.OK, said), *others]
    except SettingsError as err:
        return [Finding("token", Result.BAD, str(err))]
    except ServiceError as err:
        return [Finding("token", Result.NOT_CHECKED, str(err))]
    finally:
        held.close()
        client.close()
