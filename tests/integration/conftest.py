"""The command line, run inside this process: as quick as a function, with its real exit code and both streams."""

import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from redis import Redis

from disparo import cli
from disparo.connections import Connections
from disparo.sandbox import Options, Sandbox
from disparo.settings import Environment
from tests.integration.house import PATIENCE_SECONDS, House


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on stdout; anything else there is an error."""
        return json.loads(self.out)

    @property
    def sentence(self) -> str:
        """The refusal: exit 1, nothing on stdout, no traceback; the last line on stderr."""
        assert self.code == 1, self
        assert self.out == ""
        assert "Traceback" not in self.err
        last = self.err.rstrip("\n").splitlines()[-1]
        assert last.startswith("disparo: "), self.err
        return last.removeprefix("disparo: ")


@pytest.fixture
def _root_logger() -> Iterator[None]:
    """Commands set logging up for the whole process; what was there before comes back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def run(
    environment: Environment,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    _root_logger: None,
) -> Callable[..., Outcome]:
    """``run("app", "list")``: the command ``disparo app list`` with the settings of ``environment``."""
    for name, value in environment.values.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["disparo", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def house(connections: Connections, redis_url: str) -> Iterator[House]:
    with Sandbox(Options()) as sandbox, Redis.from_url(redis_url) as redis:
        made = House(connections, sandbox, redis)
        releaser = threading.Thread(target=made.releasing, name="releaser")
        releaser.start()
        yield made
        made.ended.set()
        for sender in made.senders:
            sender.close(5.0)
        releaser.join(PATIENCE_SECONDS)
        assert not releaser.is_alive()
