"""``disparo campaign retry`` and ``resolve``: what people decide of failed and of unknown messages."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from disparo.cli.output import FAILED, JSON, By, Why, Yes, connected, counted, note, print_json, say

if TYPE_CHECKING:
    from disparo.connections import Connections

cli = typer.Typer()

Name = Annotated[str, typer.Argument(help="The campaign's name.")]

#: So many lines of a list that name no unknown message are told one by one on the screen.
_TOLD = 20


@cli.command()
def retry(
    name: Name,
    code: Annotated[list[str], typer.Option("--code", help="What they failed with; repeatable.")],
    by: By = None,
    why: Why = None,
    yes: Yes = False,
    as_json: JSON = False,
) -> None:
    """Send failed messages again: those that failed with these codes."""
    from disparo import campaigns, db, overrides, retries
    from disparo.statuses import Lane

    with connected() as connections:
        with connections.session() as session:
            campaign = campaigns.get(session, name)
            table = overrides.load(connections.settings.home)
            asked = retries.begin(session, campaign, code, actor=by, why=why, table=table)
            payment = campaign.lane == Lane.PAYMENT
        if payment:
            note(
                "they were surely refused, so nobody pays twice by this; what was paid meanwhile is left out"
            )
            _ask(len(asked.ids), yes)
        more = True
        while more:
            with connections.session() as session:
                more = retries.next_page(session, asked, db.now(session))
        with connections.session() as session:
            state = campaigns.get(session, name).state
    done = asked.done
    names = ("retried", "too_late", "cancelled", "delivered", "changed")
    if as_json:
        return print_json(
            {"campaign": name, "codes": asked.codes, "state": state} | {one: done[one] for one in names}
        )
    say(f"{name}: {counted(done['retried'], 'failed message')} {_wait(done['retried'])} to be sent again")
    for one, told in {
        "too_late": "stay failed: it is too late for them (not_after)",
        "cancelled": "are cancelled: the customer has paid or bought meanwhile",
        "delivered": "stay as they are: they were delivered",
        "changed": "stay as they are: somebody else was quicker",
    }.items():
        if done[one]:
            say(f"  {done[one]:,} {told}")
    if state == "paused" and done["retried"]:
        note(f"{name} is paused; `disparo campaign resume {retries.shown(name)}` lets it go on")
    return None


def _wait(n: int) -> str:
    return "waits" if n == 1 else "wait"


@cli.command()
def resolve(
    name: Name,
    reference: Annotated[
        list[str] | None, typer.Option("--reference", help="A reference, key or id; repeatable.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", help="A list with a column reference, key, id or to, or only one column."),
    ] = None,
    sent: Annotated[bool, typer.Option("--sent", help="They were sent.")] = False,
    resend: Annotated[bool, typer.Option("--resend", help="Send them again.")] = False,
    give_up: Annotated[
        bool, typer.Option("--give-up", help="Do not send them again, whatever became of them.")
    ] = False,
    by: By = None,
    why: Why = None,
    yes: Yes = False,
    as_json: JSON = False,
) -> None:
    """Decide what became of unknown messages: all of a campaign, or those that are named."""
    from disparo import campaigns, db, decisions
    from disparo.unknowns import Decision

    chosen = [
        one
        for one, given in ((Decision.SENT, sent), (Decision.RESEND, resend), (Decision.GIVE_UP, give_up))
        if given
    ]
    if len(chosen) != 1:
        raise typer.BadParameter("give exactly one of --sent, --resend and --give-up")
    named = None
    if reference or file:
        named = decisions.by_references(reference or []) + (list(decisions.by_file(file)) if file else [])
    with connected() as connections:
        with connections.session() as session:
            campaign = campaigns.get(session, name)
            decisions.can_be_resolved(campaign)
            asked = decisions.begin(session, campaign, chosen[0], named, db.now(session), actor=by, why=why)
            means = decisions.what_resend_means(session, campaign, asked.ids) if resend else []
        for sentence in means:
            note(sentence)
        _tell_unmatched(asked.unmatched)
        if asked.ids:
            _ask(len(asked.ids), yes)
        _decide(connections, asked)
    done = asked.done
    if as_json:
        names = ("accepted", "pending", "failed", "expired", "cancelled", "not_unknown")
        unmatched = [{"where": one.where, "why": one.why} for one in asked.unmatched]
        print_json(
            {"campaign": name, "decision": chosen[0], "decided": asked.decided}
            | {one: done[one] for one in names}
            | {"unmatched": unmatched}
        )
    else:
        _say_decided(name, asked)
    if named is not None and not asked.decided:
        raise typer.Exit(FAILED)


def _decide(connections: "Connections", asked: Any) -> None:
    from disparo import db, decisions

    more = True
    while more:
        with connections.session() as session:
            more = decisions.next_page(session, asked, db.now(session))


def _tell_unmatched(unmatched: list[Any]) -> None:
    for one in unmatched[:_TOLD]:
        note(f"{one.where}: {one.why}")
    if len(unmatched) > _TOLD:
        note(f"and {len(unmatched) - _TOLD:,} more; --json lists them all")


def _say_decided(name: str, asked: Any) -> None:
    if not asked.ids:
        say(
            f"{name}: nothing that is unknown was named" if asked.unmatched else f"{name}: nothing is unknown"
        )
        return
    became = {
        "accepted": "are taken as sent",
        "pending": "wait to be sent again",
        "failed": "are given up",
        "expired": "are not sent again: it is too late for them (not_after)",
        "cancelled": "are not sent again: the customer has paid or bought meanwhile",
        "not_unknown": "stay as they are: they are not unknown any more",
    }
    for status, told in became.items():
        if n := asked.done[status]:
            say(f"{name}: {n:,} {told}")


def _ask(n: int, yes: bool) -> None:
    """On a terminal, let the person type the number of messages before anything changes."""
    if yes or not sys.stdin.isatty():
        return
    given = typer.prompt(
        f"{counted(n, 'message')}; to go on, type the number", default="", show_default=False, err=True
    )
    if given.strip().replace(",", "").replace(".", "") != str(n):
        note("not what it says above; nothing was changed")
        raise typer.Exit(FAILED)
