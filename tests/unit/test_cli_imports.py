"""What must stay quick: importing the library, and asking for help."""

import json
import subprocess
import sys

import pytest

HEAVY = ["celery", "kombu", "sqlalchemy", "redis", "requests", "alembic", "psycopg", "urllib.request"]
LOOK = "import json, sys; print(json.dumps(sorted(set(sys.modules) & set(json.loads(sys.argv[-1])))), file=sys.stderr)"


def heavy_after(code: str, *arguments: str) -> list[str]:
    """Which of the heavy packages a new interpreter has loaded after ``code``."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{LOOK}", *arguments, json.dumps(HEAVY)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found = json.loads(done.stderr.splitlines()[-1])
    assert isinstance(found, list)
    return found


def test_importing_the_library_imports_neither_celery_nor_sqlalchemy():
    assert heavy_after("import disparo") == []


@pytest.mark.parametrize(
    "arguments", [["--help"], ["campaign", "--help"], ["campaign", "launch", "-h"], ["--version"]]
)
def test_asking_for_help_imports_neither_celery_nor_sqlalchemy(arguments):
    code = (
        "import sys; from disparo.cli import main; given = sys.argv; sys.argv = ['disparo', *given[1:-1]]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\nsys.argv = given"
    )
    assert heavy_after(code, *arguments) == []


def test_a_command_that_only_asks_the_tables_imports_neither_celery_nor_alembic_nor_the_provider_client():
    code = (
        "import disparo.connections, disparo.campaigns, disparo.messages, disparo.schema, disparo.overrides"
    )
    assert heavy_after(code) == ["sqlalchemy"]


def test_the_look_itself_would_notice():
    assert "sqlalchemy" in heavy_after("import disparo.connections")
