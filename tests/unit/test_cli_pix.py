"""``disparo pix code``: what a code says, for people and scripts."""

import json
import sys

import pytest

from disparo import cli

GOOD = (
    "00020126330014BR.GOV.BCB.PIX01111234567890052040000530398654041.005802BR5914Nome Sobrenome"
    "6015Cidade Ficticia62100506LOJA016304C8E4"
)


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["disparo", "pix", "code", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0), capsys.readouterr().out


def test_json_has_a_line_for_each_code_and_the_exit_code_says_whether_all_are_valid(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = run(monkeypatch, capsys, f"{GOOD[:60]}\n{GOOD[60:]} ", "--json")
    assert code == 0
    assert json.loads(out) == {
        "code": GOOD, "valid": True, "kind": "static", "amount": "1.00", "key": "12345678900", "url": None,
        "txid": "LOJA01", "merchant_name": "Nome Sobrenome", "city": "Cidade Ficticia", "errors": [],
    }  # fmt: skip
    code, out = run(monkeypatch, capsys, "--json", GOOD, GOOD[:-1] + "0")
    assert code == 1
    assert [json.loads(line)["valid"] for line in out.splitlines()] == [True, False]


def test_people_see_amounts_in_reais_and_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = run(monkeypatch, capsys, GOOD, "x")
    assert code == 1
    assert "R$ 1,00" in out
    assert "code 2: In the BR Code, an id and a length are expected" in out
