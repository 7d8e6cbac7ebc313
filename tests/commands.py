"""Commands run in the tests' own process."""

import sys

import pytest

from disparo import cli


def printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str, code: int
) -> tuple[str, str]:
    """What ``disparo WORDS`` prints on standard output and on standard error; it ends with ``code``."""
    monkeypatch.setattr(sys, "argv", ["disparo", *words])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main()
    captured = capsys.readouterr()
    assert int(ended.value.code or 0) == code, captured
    return captured.out, captured.err
