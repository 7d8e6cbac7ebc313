"""Daily budgets: counted exactly in the claims of all workers, waited for, and taken up again by themselves."""

import os
import pty
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from subprocess import PIPE

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from disparo import apps, batches, db, fence, phone, portfolios, recovery, releases, stops, suppressions
from disparo.batches import Job, Outcome
from disparo.cli.progress import Progress
from disparo.errors import InputError, NotFoundError
from disparo.models import App, Batch, Campaign, Message, Portfolio
from disparo.portfolios import COUNTED_FOR, SETTLED_AFTER
from disparo.statuses import Status, Verdict
from disparo.suppressions import target
from tests.factories.app import fault, make_app
from tests.factories.campaign import make_batch, make_campaign
from tests.factories.installation import make_worker
from tests.factories.message import make_message
from tests.factories.portfolio import make_counted, make_portfolio, recount
from tests.integration.house import until
from tests.integration.test_cli_campaign import command

TEMPLATE = "oferta/pt_BR"
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


@pytest.fixture
def now(session):
    return db.now(session)


def launched(session, app, recipients, name="natal", **columns):
    return make_campaign(session, app, recipients, name=name, template=TEMPLATE, **columns)


def claim(session, batch, limit, now, owner="w1"):
    return batches.claim(
        session, Job(batch.app_id, "marketing", batch_id=batch.id, size=batch.size), limit, owner, now
    )


def batches_of(campaign):
    return select(Batch.id).where(Batch.campaign_id == campaign.id).order_by(Batch.id)


def put_back(session, rows, now, *, delay=0.0):
    """As a throttle does."""
    outcomes = [
        Outcome(row.id, row.claim, Status.PENDING, verdict=Verdict.THROTTLE, code="429", delay_seconds=delay)
        for row in rows
    ]
    assert batches.record(session, outcomes, now) == len(rows)


# -- counting ----------------------------------------------------------------------------------------------


def test_no_more_recipients_are_claimed_than_the_limit_allows_and_each_counts_once(session, now):
    app = make_app(session)
    portfolio = make_portfolio(session, app, limit=4)
    batch = make_batch(session, launched(session, app, 10))
    assert [len(claim(session, batch, n, now)) for n in (3, 5, 5)] == [3, 1, 0]
    assert len(recount(session, portfolio)) == 4


def test_workers_at_once_claim_exactly_the_limit_together(engine):
    with Session(engine, expire_on_commit=False) as session:
        app, other = make_app(session), make_app(session, "filial")
        portfolio = make_portfolio(session, app, other, limit=101)
        parts = [make_batch(session, launched(session, one, 120, one.name)) for one in (app, other)]
        # Each app's rows have recipients of their own.
        session.execute(
            text("UPDATE messages SET recipient_key = 'x' || recipient_key WHERE app_id = :id"),
            {"id": other.id},
        )
        now = db.now(session)
        session.commit()

    def work(n):
        found = []
        for _ in range(12):
            with Session(engine) as session, session.begin():
                found += claim(session, parts[n % 2], 7, now, f"w{n}")
        return found

    with ThreadPoolExecutor(6) as threads:
        claimed = [row.id for rows in threads.map(work, range(6)) for row in rows]
    assert len(claimed) == len(set(claimed)) == 101
    with Session(engine) as session:
        assert len(recount(session, portfolio)) == 101


def test_two_messages_to_one_recipient_count_once_also_in_one_claim(session, now):
    app = make_app(session)
    portfolio = make_portfolio(session, app, limit=2)
    batch = make_batch(session, launched(session, app, 6))
    # 0 and 1 go to one phone in its two spellings, 2 and 4 to another.
    session.execute(text("UPDATE messages SET recipient_key = 'a' WHERE line IN (2, 3)"))
    session.execute(text("UPDATE messages SET recipient_key = 'b' WHERE line IN (4, 6)"))
    lines = [session.get_one(Message, row.id).line for row in claim(session, batch, 6, now)]
    assert lines == [2, 3, 4, 6]
    assert recount(session, portfolio) == {"a", "b"}


def test_a_claim_that_is_rolled_back_counts_nothing(session, now):
    app = make_app(session)
    portfolio = make_portfolio(session, app, limit=4)
    batch = make_batch(session, launched(session, app, 10))
    with session.begin_nested() as savepoint:
        assert len(claim(session, batch, 3, now)) == 3
        savepoint.rollback()
    assert recount(session, portfolio) == set()


def test_what_is_put_back_and_claimed_again_counts_once_and_leaves_though_the_budget_is_used_up(session, now):
    app = make_app(session)
    portfolio = make_portfolio(session, app, limit=2)
    campaign = launched(session, app, 5)
    batch = make_batch(session, campaign)
    rows = claim(session, batch, 5, now)
    batches.finish(session, [Job(app.id, "marketing", batch_id=batch.id)], now)
    for _ in range(3):
        assert len(rows) == 2
        put_back(session, rows, now)
        # Of all that waits only these two are named again.
        [job] = releases.release(session, now)
        assert sorted(job.message_ids) == sorted(row.id for row in rows)
        rows = batches.claim(session, job, 5, "w1", now)
    assert len(recount(session, portfolio)) == 2


def test_messages_without_a_template_count_nothing_and_leave_though_the_budget_is_used_up(session, now):
    app = make_app(session)
    portfolio = make_portfolio(session, app, limit=1)
    make_counted(session, portfolio, "other", now)
    held = launched(session, app, 3)
    free = make_campaign(session, app, 3, name="sessao")
    single, template = (
        make_message(session, app, due_at=now),
        make_message(session, app, due_at=now, template=TEMPLATE),
    )
    jobs = releases.release(session, now)
    named = {job.message_ids or job.batch_id for job in jobs}
    [batch] = session.scalars(batches_of(free))
    assert named == {(single.id,), batch}
    assert [row.campaign_id for job in jobs for row in batches.claim(session, job, 10, "w1", now)] == [
        None,
        *[free.id] * 3,
    ]
    assert claim(session, make_batch(session, held), 3, now) == []
    assert batches.claim(session, Job(app.id, "utility", message_ids=(template.id,)), 1, "w1", now) == []
    assert recount(session, portfolio) == {"other"}


def test_who_is_not_written_to_takes_no_room(session, now):
    app = make_app(session)
    portfolio = make_portfolio(session, app, limit=3)
    batch = make_batch(session, launched(session, app, 6))
    for line in (2, 3):
        number = session.scalars(select(Message.recipient).where(Message.line == line)).one()
        suppressions.add(
            session, target(number), app=app, scope="all", reason="no", until=None, by="ana", now=now
        )
        session.execute(
            text(
                "UPDATE messages SET recipient_key = (SELECT recipient_key FROM suppressions WHERE app_id = :a"
                " ORDER BY id DESC LIMIT 1) WHERE line = :line"
            ),
            {"a": app.id, "line": line},
        )
    rows = claim(session, batch, 6, now)
    assert [session.get_one(Message, row.id).line for row in rows] == [4, 5, 6]
    assert len(recount(session, portfolio)) == 3


def test_an_app_without_a_portfolio_or_one_without_a_limit_counts_nothing(session, now):
    app, other = make_app(session), make_app(session, "filial")
    portfolio = make_portfolio(session, app, limit=None)
    for one in (app, other):
        assert len(claim(session, make_batch(session, launched(session, one, 5, one.name)), 5, now)) == 5
    assert recount(session, portfolio) == set()


# -- waiting and going on ----------------------------------------------------------------------------------


def test_a_full_budget_names_nothing_new_and_goes_on_as_its_24_hours_roll(session, now):
    app = make_app(session, rate=100.0)
    portfolio = make_portfolio(session, app, limit=5)
    campaign = launched(session, app, 12)

    def day(at):
        return [len(batches.claim(session, job, job.size, "w1", at)) for job in releases.release(session, at)]

    assert day(now) == [5]
    assert portfolios.full(session) == [app.id]
    assert day(now + 23 * HOUR) == []
    later = now + COUNTED_FOR
    assert portfolios.forget_old(session, later - MINUTE) == 0
    assert portfolios.frees_at(session, portfolios.budget(session, app.id)) == later
    assert portfolios.forget_old(session, later, page=2) == 2
    for job in [Job(app.id, "marketing", batch_id=one) for one in session.scalars(batches_of(campaign))]:
        batches.finish(session, [job], later)
    assert day(later) == [2]
    assert portfolios.forget_old(session, later, page=5) == 3
    assert len(recount(session, portfolio)) == 2


def test_what_is_left_of_a_budget_goes_to_the_most_urgent_lane_of_all_its_apps(session, now):
    app, other = make_app(session, rate=10.0), make_app(session, "filial", rate=10.0)
    make_portfolio(session, app, other, limit=12)
    offers, rest = launched(session, app, 30, "oferta"), launched(session, other, 30, "resto")
    pix = launched(session, app, 15, "pix")
    pix.lane = "payment"
    session.execute(text("UPDATE messages SET lane = 'payment' WHERE campaign_id = :id"), {"id": pix.id})
    session.flush()
    named = releases.release(session, now)
    assert {job.campaign_id for job in named} == {pix.id}
    assert sum(len(batches.claim(session, job, job.size, "w1", now)) for job in named) == 12
    for job in named:
        batches.finish(session, [job], now)
    assert releases.release(session, now) == []
    later = now + COUNTED_FOR
    portfolios.forget_old(session, later)
    named = releases.release(session, later)
    assert named[0].campaign_id == pix.id
    assert sum(len(batches.claim(session, job, job.size, "w1", later)) for job in named[1:]) == 12 - 3
    assert len(batches.claim(session, named[0], 3, "w1", later)) == 3
    assert {job.campaign_id for job in named[1:]} <= {offers.id, rest.id}


def test_who_is_written_to_again_counts_for_another_day(session, now):
    app = make_app(session)
    portfolio = make_portfolio(session, app, limit=5)
    batch = make_batch(session, launched(session, app, 2))
    session.execute(text("UPDATE messages SET recipient_key = 'a'"))
    claim(session, batch, 1, now)
    claim(session, batch, 1, now + 20 * HOUR)
    assert portfolios.forget_old(session, now + COUNTED_FOR) == 0
    assert portfolios.forget_old(session, now + 20 * HOUR + COUNTED_FOR) == 1
    assert recount(session, portfolio) == set()


def test_a_recipient_counts_until_the_last_instant_at_which_its_claim_may_have_left():
    assert timedelta(hours=24) + recovery.LEASE <= COUNTED_FOR


def test_a_campaign_waits_for_its_budget_without_a_refusal_and_ends_when_it_is_raised(house):
    app = house.app(rate=500.0)
    with house.connections.session() as session:
        portfolio = make_portfolio(session, session.get_one(App, app.id), limit=20)
    house.sender()
    campaign = house.campaign(app, 60, template=TEMPLATE)
    house.until_counts(campaign, accepted=20, pending=40)
    with house.connections.session() as session:
        until(lambda: not releases.release(session, db.now(session)), "nothing is named")
        portfolios.configure(session, "grupo", daily_limit=45)
    house.until_counts(campaign, accepted=45, pending=15)
    with house.connections.session() as session:
        assert len(recount(session, portfolio)) == 45
        portfolios.configure(session, "grupo", daily_limit="none")
    house.until_counts(campaign, accepted=60)
    assert len(house.arrivals()) == 60


# -- limits that come, change and go -----------------------------------------------------------------------


def test_a_limit_that_is_set_counts_who_was_written_to_before_and_lets_nobody_new_through_until_then(
    session, now
):
    app = make_app(session)
    portfolio, created = portfolios.configure(session, "grupo")
    assert created
    apps.configure(session, app.name, portfolio="grupo")
    batch = make_batch(session, launched(session, app, 8))
    make_message(session, app, "5511987659999", claimed_at=now, status="accepted")
    old, recent = claim(session, batch, 2, now - COUNTED_FOR), claim(session, batch, 2, now - HOUR)
    assert not portfolios.configure(session, "grupo", daily_limit=5)[1]
    assert portfolios.full(session) == [app.id]
    assert claim(session, batch, 4, now) == []
    set_at = session.execute(select(Portfolio.updated_at)).scalar_one()
    assert set_at > db.now(session), "the instant at which it was set, however long that waited for a lock"
    assert portfolios.count_due(session, set_at + SETTLED_AFTER - MINUTE) == []
    assert portfolios.count_due(session, set_at + SETTLED_AFTER) == ["grupo"]
    keys = {session.get_one(Message, row.id).recipient_key for row in recent}
    assert recount(session, portfolio) == keys
    assert len(old) == 2
    assert portfolios.full(session) == []
    assert len(claim(session, batch, 4, now)) == 3


def test_an_app_that_joins_brings_whom_it_has_written_to(session, now):
    app, other = make_app(session), make_app(session, "filial")
    portfolio = make_portfolio(session, other, limit=5)
    make_counted(session, portfolio, "x", now)
    claim(session, make_batch(session, launched(session, app, 3)), 3, now)
    apps.configure(session, app.name, portfolio="grupo")
    assert apps.describe(session, app)["portfolio"] == "grupo"
    assert sorted(portfolios.full(session)) == [app.id, other.id]
    portfolios.count_due(session, now + HOUR)
    assert len(recount(session, portfolio)) == 4
    # Said twice it changes nothing; who leaves leaves what it has used.
    apps.configure(session, app.name, portfolio="grupo")
    assert portfolios.full(session) == []
    apps.configure(session, app.name, portfolio="")
    assert (app.portfolio_id, len(recount(session, portfolio))) == (None, 4)


def test_a_lower_limit_holds_at_once_and_none_forgets_who_was_counted(session, now):
    app = make_app(session)
    portfolio = make_portfolio(session, app, limit=5)
    batch = make_batch(session, launched(session, app, 9))
    assert len(claim(session, batch, 3, now)) == 3
    portfolios.configure(session, "grupo", daily_limit=2)
    assert claim(session, batch, 3, now) == []
    # One too many counts: two have to go until one may come.
    make_counted(session, portfolio, "x", now - HOUR)
    assert portfolios.frees_at(session, portfolios.budget(session, app.id)) == now + COUNTED_FOR
    portfolios.configure(session, "grupo", daily_limit="none")
    assert recount(session, portfolio) == set()
    assert len(claim(session, batch, 3, now)) == 3
    assert recount(session, portfolio) == set()


def test_a_wrong_name_or_limit_is_refused(session):
    for limit in (0, -1, 10**12):
        with pytest.raises(InputError, match="--daily-limit"):
            portfolios.configure(session, "grupo", daily_limit=limit)
    with pytest.raises(InputError, match="no name of a portfolio"):
        portfolios.configure(session, "Grupo Sul")
    with pytest.raises(NotFoundError, match="there is none yet"):
        apps.configure(session, make_app(session).name, portfolio="grupo")


# -- clocks and backups ------------------------------------------------------------------------------------


def test_a_clock_that_is_set_back_blocks_no_longer_than_a_day(session, now):
    app = make_app(session)
    portfolio = make_portfolio(session, app, limit=1)
    future = now + 30 * HOUR
    recovery.notice_clock_set_back(session, future)
    claim(session, make_batch(session, launched(session, app, 2)), 1, future)
    assert recovery.notice_clock_set_back(session, now)
    assert portfolios.forget_old(session, now + COUNTED_FOR) == 1
    assert recount(session, portfolio) == set()


def test_what_may_have_been_sent_after_a_backup_counts(session, now, tmp_path):
    app = make_app(session)
    portfolio = make_portfolio(session, app, limit=10)
    launched(session, app, 4)
    make_counted(session, portfolio, "x", now)
    fence.restored(session, now - HOUR, now, fence.Mirror(tmp_path))
    assert portfolios.full(session) == [app.id]
    portfolios.count_due(session, now + HOUR)
    assert len(recount(session, portfolio)) == 5


def test_a_probe_is_looked_for_among_what_the_budget_allows(session, now):
    app = make_app(session)
    portfolio = make_portfolio(session, app, limit=1)
    make_counted(session, portfolio, "other", now)
    stops.trip(session, app.id, "app", "", fault("unreachable"), now=now - HOUR)
    campaign = launched(session, app, 3)
    releases.release(session, now)
    make_message(session, app, due_at=now, template=TEMPLATE)
    assert stops.release_probes(session, now) == []
    # What counts already may leave, as soon as there is something of it.
    counted = make_message(
        session, app, due_at=now, template=TEMPLATE, recipient_key="other", to="5511987650002"
    )
    [probe] = stops.release_probes(session, now)
    assert probe.message_id == counted.id
    assert session.get_one(Campaign, campaign.id).released_to == 0


# -- commands ----------------------------------------------------------------------------------------------


def test_the_commands_set_and_show_a_budget(run, connections):
    assert "no portfolio yet" in run("portfolio", "list").out
    assert (
        run("portfolio", "set", "grupo", "--daily-limit", "2.000").out
        == "created grupo: 2,000 recipients in 24 hours\n"
    )
    assert (
        "'sul' (there are: grupo)" in run("app", "set", "loja", "--id", "a1", "--portfolio", "sul").sentence
    )
    assert (
        run("app", "set", "loja", "--id", "a1", "--portfolio", "grupo", "--json").json["portfolio"] == "grupo"
    )
    found = run("portfolio", "show", "grupo", "--json").json
    assert found == {
        "name": "grupo",
        "daily_limit": 2000,
        "used": 0,
        "left": 0,
        "counting": True,
        "frees_at": None,
        "apps": ["loja"],
    }
    assert "being counted" in run("portfolio", "show", "grupo").out
    with connections.session() as session:
        portfolios.count_due(session, db.now(session) + HOUR)
    assert run("portfolio", "list", "--json").json == [found | {"left": 2000, "counting": False}]
    assert run("portfolio", "set", "grupo", "--daily-limit", "none").out == "changed grupo: no limit\n"
    for wrong in ("1.5", "many", "-3", "2.00", "٣"):
        assert (
            "write a number of recipients"
            in run("portfolio", "set", "grupo", f"--daily-limit={wrong}").sentence
        )
    assert "there are: grupo" in run("portfolio", "show", "sul").sentence


TEMPLATE_FILE = """\
name: {name}
app: loja
message: {{type: template, template: {{name: oferta, language: {{code: pt_BR}}}}}}
"""


@pytest.fixture
def template_campaign(run, connections, tmp_path):
    """Arguments that launch a template to five people, two of whom count already, with a budget of four."""
    run("portfolio", "set", "grupo", "--daily-limit", "4")
    run("app", "set", "loja", "--id", "a1", "--portfolio", "grupo")
    with connections.session() as session:
        now = db.now(session)
        portfolios.count_due(session, now + HOUR)
        grupo = portfolios.get(session, "grupo")
        for number in ("5511980000000", "5511980000001"):
            make_counted(session, grupo, phone.key_of(number), now)

    def arguments(name="natal"):
        (tmp_path / f"{name}.yaml").write_text(TEMPLATE_FILE.format(name=name))
        people = [f"55119{80000000 + n}" for n in range(5)]
        (tmp_path / "people.csv").write_text("to\n" + "".join(f"{one}\n" for one in people))
        return ["campaign", "launch", tmp_path / f"{name}.yaml", tmp_path / "people.csv"]

    return arguments


EXCEEDS = (
    "warning: 2 of the 4 recipients that grupo may write to in 24 hours are used, and this has 3 more: the rest waits, "
    "and all have left in about 24 h 0"
)


def test_a_launch_beyond_the_budget_says_so_and_how_long_it_takes(run, template_campaign, connections):
    assert EXCEEDS in run(*template_campaign(), "--yes").err
    run("portfolio", "set", "grupo", "--daily-limit", "5")
    assert "warning" not in run(*template_campaign("outra"), "--yes").err


def test_the_question_says_it_before_anything_is_stored(template_campaign, environment, connections):
    ours, theirs = pty.openpty()
    process = command(environment, *template_campaign(), stdin=theirs, stdout=PIPE, stderr=PIPE, text=True)
    try:
        os.write(ours, b"no\n")
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)
    assert process.returncode == 1
    assert EXCEEDS in err
    with connections.session() as session:
        assert session.scalars(select(Campaign)).all() == []


def test_a_campaign_that_waits_for_its_budget_says_until_when(run, template_campaign, connections):
    run(*template_campaign(), "--yes")
    run("portfolio", "set", "grupo", "--daily-limit", "2")
    with connections.session() as session:
        make_worker(session, db.now(session) + HOUR)
        free = portfolios.frees_at(session, portfolios.budget(session, apps.get(session, "loja").id))
        zone = connections.settings.zone
    out = run("campaign", "status", "natal").out
    told = (
        f"2 of 2 recipients in 24 hours are used by grupo; the next at {free.astimezone(zone):%Y-%m-%d %H:%M}"
    )
    assert f"  limited by budget: {told}\n" in out
    shown = Progress("natal", zone)
    notes = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("disparo.cli.progress.note", notes.append)
        shown.update(run("campaign", "status", "natal", "--json").json)
    assert notes[0].endswith(f"limited by budget: {told}")


def test_a_single_message_that_waits_for_the_budget_says_so(run, template_campaign, connections, tmp_path):
    template_campaign()
    run("portfolio", "set", "grupo", "--daily-limit", "2")
    with connections.session() as session:
        make_worker(session, db.now(session) + HOUR)
    (tmp_path / "one.json").write_text(
        '{"type":"template","template":{"name":"oferta","language":{"code":"pt_BR"}}}'
    )
    done = run(
        "send", "--app", "loja", "--to", "5511980000009", "--wait", "--timeout", "0.1", tmp_path / "one.json"
    )
    assert done.code == 1
    assert "still pending" in done.err
    assert (
        "the 2 recipients that grupo may write to in 24 hours are used; somebody new has to wait until"
        in done.err
    )
