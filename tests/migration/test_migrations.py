"""Models and revisions say the same, and every revision goes up and down."""

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from disparo import schema
from disparo.db import make_engine, migrations_folder
from disparo.models import App


def test_models_and_migrations_agree(engine):
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, App.metadata) == []


def test_checks_of_the_models_stand_in_the_database(engine):
    inspector = inspect(engine)
    for table in App.metadata.sorted_tables:
        modelled = {c.name for c in table.constraints if type(c).__name__ == "CheckConstraint"}
        there = {check["name"] for check in inspector.get_check_constraints(table.name)}
        assert {str(name) for name in modelled} == there, table.name


def test_each_revision_goes_up_down_and_up_again(empty_database_url):
    engine = make_engine(empty_database_url)
    revisions = [r.revision for r in ScriptDirectory(str(migrations_folder())).walk_revisions()][::-1]
    for revision in revisions:
        schema.upgrade(engine, revision)
        schema.downgrade(engine, "-1")
        schema.upgrade(engine, revision)
    schema.downgrade(engine, "base")
    assert set(inspect(engine).get_table_names()) == {"alembic_version"}
    engine.dispose()


def test_the_code_names_the_newest_revision():
    assert ScriptDirectory(str(migrations_folder())).get_current_head() == schema.HEAD


def test_revisions_import_nothing_of_ours():
    for path in (migrations_folder() / "versions").glob("*.py"):
        source = path.read_text()
        assert not [name for name in ("disparo", "worker", "scheduler", "web") if f"import {name}" in source]
        assert "from disparo" not in source


def test_a_migration_sets_lock_and_statement_timeouts(empty_database_url, monkeypatch):
    engine = make_engine(empty_database_url)
    seen = []

    from alembic.runtime.environment import EnvironmentContext

    run = EnvironmentContext.run_migrations

    def spy(self, **options):
        connection = self.get_context().connection
        names = ("lock_timeout", "statement_timeout")
        seen.extend(connection.execute(text(f"SHOW {name}")).scalar_one() for name in names)
        run(self, **options)

    monkeypatch.setattr(EnvironmentContext, "run_migrations", spy)
    schema.upgrade(engine)
    assert seen == ["4s", "5min"]
    engine.dispose()
