"""PIX batches: one request per reference, amounts and codes checked, and a payment that stops the request."""

import json
import os
import pty
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from disparo import OrderButton, Template, campaigns, order_details, recipients

PAGE = json.loads((Path(__file__).parent.parent / "data" / "seeds" / "pix_session.json").read_text())
CODE = PAGE["interactive"]["action"]["parameters"]["payment_settings"][0]["pix_dynamic_code"]["code"]


def crc(payload: str) -> str:
    """A BR Code with its checksum. Source: manual do BR Code, CRC-16/CCITT-FALSE."""
    value = 0xFFFF
    for byte in (payload + "6304").encode():
        value ^= byte << 8
        for _ in range(8):
            value = (value << 1 ^ 0x1021) & 0xFFFF if value & 0x8000 else value << 1 & 0xFFFF
    return f"{payload}6304{value:04X}"


def code_of(amount: str) -> str:
    """A static code that asks for ``amount``."""
    account = "0014br.gov.bcb.pix0114" + "39580525000189"
    field = f"26{len(account):02d}{account}"
    return crc(
        f"000201{field}52040000530398654{len(amount):02d}{amount}5802BR5907EMPRESA6009SAO PAULO62070503***"
    )


def charge_code(city: str) -> str:
    """A dynamic code of one charge, as written with that city."""
    return crc(
        f"00020101021226310014br.gov.bcb.pix2509pix.ex/q15204000053039865802BR5907EMPRESA60{len(city):02d}{city}"
    )


@pytest.fixture
def make(run, tmp_path):
    run("app", "set", "loja", "--id", "app-1")

    def make(charges, *, name="march", more="", lane="payment", message=None):
        file = tmp_path / f"{name}.yaml"
        message = message or {
            "type": "text",
            "text": {"body": "{{ reference }} {{ amount_cents | brl }} {{ code }}"},
        }
        file.write_text(f"name: {name}\napp: loja\nlane: {lane}\n{more}message: {json.dumps(message)}\n")
        path = tmp_path / f"{name}.csv"
        path.write_text(charges)
        return ["pix", "send", file, path]

    return make


def ask(connections, query):
    with connections.session() as session:
        return [tuple(row) for row in session.execute(text(query)).all()]


def refused(connections):
    return dict(ask(connections, "SELECT line, explanation FROM import_rejects"))


def test_a_charge_is_stored_with_its_message_whichever_column_the_amount_is_in(run, make, connections):
    rows = (
        "to;reference;amount;amount_cents;code;due;expires\n"
        f'5511999998888;R1;"R$ 1.234,56";;"{CODE[:50]}\n{CODE[50:]} ";10/12/2030;\n'
        f"5511977776666;R2;;50000;{code_of('500.00')};;2030-12-10\n"
    )
    assert run(*make(rows)).code == 0
    assert ask(
        connections, "SELECT reference, amount_cents, code, CAST(due_on AS text) FROM pix_charges ORDER BY id"
    ) == [
        ("R1", 123456, CODE, "2030-12-10"),
        ("R2", 50000, code_of("500.00"), None),
    ]
    assert ask(connections, "SELECT params->>'code', params->>'amount_cents' FROM messages ORDER BY id") == [
        (CODE, "123456"),
        (code_of("500.00"), "50000"),
    ]
    found = run("pix", "show", "R2", "--app", "loja", "--json").json
    assert (found["amount_cents"], found["batch"], found["state"]) == (50000, "march", "pending")
    assert found["expires_at"].startswith("2030-12-1")


def test_a_row_that_would_ask_for_the_wrong_thing_is_refused_and_the_others_go_on(run, make, connections):
    rows = [
        ("R1", "500,00", code_of("500.00"), None),
        ("R2", "500,01", code_of("500.00"), "the code asks for R$ 500,00, the row says R$ 500,01"),
        ("R3", "500,00", code_of("500.00")[:-1] + "0", "checksum"),
        ("R4", "500,00", "nonsense", "BR Code"),
        ("R5", "0", code_of("500.00"), "above 0"),
        ("R6", "-5", code_of("500.00"), "not below zero"),
        ("R7", "1.234", code_of("500.00"), "1.234"),
        ("R8", "99999999999999", code_of("500.00"), "is it in cents already"),
        ("", "500,00", code_of("500.00"), "the column reference is empty"),
        ("R1", "500,00", code_of("500.00"), "duplicate of line 2"),
    ]
    text_ = "to;reference;amount;code\n" + "".join(
        f"55119777766{n:02d};{reference};{amount};{code}\n"
        for n, (reference, amount, code, _) in enumerate(rows)
    )
    assert run(*make(text_)).code == 0
    told = refused(connections)
    assert set(told) == {line for line, row in enumerate(rows, 2) if row[3]}
    for line, row in enumerate(rows, 2):
        assert (row[3] or "") in told.get(line, ""), line
        assert code_of("500.00") not in told.get(line, "")
    assert ask(connections, "SELECT reference FROM pix_charges") == [("R1",)]


def test_a_hostile_amount_is_refused_like_any_other(run, make, connections):
    rows = (
        "to;reference;amount_cents;code\n5511999998888;R1;100;\n5511999997777;R2;"
        + "9" * 6000
        + ";\n5511999996666;R3;1e3;\n"
    )
    assert run(*make(rows)).code == 0
    assert all("is no whole number of cents" in told for told in refused(connections).values())
    assert set(refused(connections)) == {3, 4}


def test_one_code_in_two_rows_or_in_another_open_charge_is_refused(run, make, connections):
    header = "to;reference;amount;code;txid\n"
    # Its name looks like the beginning of an address.
    odd = crc(code_of("500.00")[:-8].replace("5907EMPRESA", "5918br.gov.bcb.pix25xx"))
    rows = [
        f"5511999998888;R1;10,00;{code_of('10.00')};",
        f"5511999997777;R2;10,00;{code_of('10.00')};",
        "5511999996666;R3;10,00;;T1",
        "5511999995555;R4;10,00;;T1",
        f"5511999994444;R5;500,00;{charge_code('SAO PAULO')};",
        f"5511999993333;R6;500,00;{charge_code('Sao Paulo')};",
        f"5511999992222;R7;500,00;{odd};",
    ]
    assert run(*make(header + "\n".join(rows))).code == 0
    assert refused(connections) == {
        3: "its code is that of line 2, too: who pays it pays that one",
        5: "its txid is that of line 4, too: who pays it pays that one",
        7: "the charge of its code is that of line 6, too: who pays it pays that one",
    }
    # In another batch: the same bills under other references, until the first is closed.
    again = [row.replace(";R", ";S") for row in (rows[0], rows[2], rows[5])]
    more = f"5511999992222;S7;1,00;{code_of('1.00')};\n"
    assert run(*make(header + more + "\n".join(again), name="april")).code == 0
    told = [
        text_
        for (text_,) in ask(connections, "SELECT explanation FROM import_rejects ORDER BY import_id, line")
    ]
    assert [one.split(" is that of ")[1].split(",")[0] for one in told[3:]] == ["R1", "R3", "R5"]
    assert ask(connections, "SELECT reference, txid FROM pix_charges ORDER BY id") == [
        ("R1", None), ("R3", "T1"), ("R5", None), ("R7", None), ("S7", None),
    ]  # fmt: skip
    run("pix", "paid", "R1", "--app", "loja")
    run("campaign", "cancel", "march")
    assert run(*make(header + "\n".join(again), name="may")).code == 0
    assert len(ask(connections, "SELECT 1 FROM pix_charges")) == 8


def test_a_request_is_too_late_before_its_code_dies(run, make, connections):
    rows = "to;reference;amount;code;expires\n5511999998888;R1;10,00;;2030-12-10\n"
    assert run(*make(rows)).code == 0
    assert ask(
        connections,
        "SELECT c.expires_at - m.not_after FROM pix_charges c JOIN messages m ON m.id = c.message_id",
    ) == [(timedelta(minutes=30),)]


def test_a_batch_needs_no_order_in_the_providers_json(run, make, connections, tmp_path):
    short = {"item": "Mensalidade", "template": "mensalidade_pix", "body": ["{{ nome | first_name }}"]}
    rows = f"to;reference;amount;code;nome\n5511999998888;R1;10,00;{code_of('10.00')};MARIA SILVA\n"
    found = run(*make(rows, message={"pix": {**short, "merchant_name": "Colégio"}}))
    assert found.code == 0
    assert "warning: line 2: merchant_name is another than the code's, “EMPRESA”" in found.err
    content, params = ask(
        connections, "SELECT c.content, m.params FROM messages m JOIN campaigns c ON c.id = m.campaign_id"
    )[0]
    sent = json.loads(recipients.render(*campaigns.compile_message(content), params, "5511999998888"))
    code = code_of("10.00")
    order = order_details("R1", amount_cents=1000, code=code, item="Mensalidade", merchant_name="Colégio")
    message = Template("mensalidade_pix", "pt_BR", body=["Maria"], buttons=[OrderButton(order)]).message()
    assert (
        sent
        == {"messaging_product": "whatsapp", "recipient_type": "individual", "to": "5511999998888"} | message
    )


def test_a_reference_is_requested_once_per_app_over_all_batches(run, make, connections):
    run(*make("to;reference;amount;code\n5511999998888;R1;10,00;\n"))
    run(*make("to;reference;amount;code\n5511999998888;R1;10,00;\n5511999998888;R2;10,00;\n", name="april"))
    assert "the key R1 already names message" in refused(connections)[2]
    assert ask(connections, "SELECT reference FROM pix_charges ORDER BY id") == [("R1",), ("R2",)]


def test_the_reference_is_the_key_even_beside_a_key_column_and_another_dedupe(run, make, connections):
    rows = "to;key;reference;amount;code\n5511999998888;x;R1;10,00;\n5511999997777;y;R2;10,00;\n5511999996666;z;;10,00;\n"
    assert run(*make(rows, more="dedupe: none\n")).code == 0
    assert ask(
        connections,
        "SELECT c.reference, m.key FROM pix_charges c JOIN messages m ON m.id = c.message_id ORDER BY c.id",
    ) == [
        ("R1", "R1"),
        ("R2", "R2"),
    ]
    assert refused(connections) == {4: "the column reference is empty"}


def test_paid_cancels_the_request_that_waits_once(run, make, connections):
    run(*make("to;reference;amount;code\n5511999998888;R1;10,00;\n5511999997777;R2;10,00;\n"))
    assert (
        run("pix", "paid", "R1", "--app", "loja").out
        == "R1 is paid; its request had not left and is cancelled\n"
    )
    assert "was marked as paid at" in run("pix", "paid", "R1", "--app", "loja").sentence
    ask(connections, "UPDATE messages SET status = 'accepted' WHERE key = 'R2' RETURNING 1")
    assert run("pix", "paid", "R2", "--app", "loja").out == "R2 is paid\n"
    assert ask(connections, "SELECT key, status FROM messages ORDER BY id") == [
        ("R1", "cancelled"),
        ("R2", "accepted"),
    ]
    counts = run("campaign", "status", "march", "--json").json["counts"]
    assert (counts["pending"], counts["cancelled"]) == (1, 1)
    assert run("pix", "show", "R1", "--app", "loja", "--json").json["paid_at"]
    assert "has no charge with the reference 'R9'" in run("pix", "paid", "R9", "--app", "loja").sentence


def test_a_payment_with_an_order_is_a_batch_for_campaign_launch_too(run, make, connections):
    message = {"pix": {"item": "Mensalidade", "body": "Olá"}}
    rows = (
        "to;reference;amount;code\n"
        f"5511999998888;R1;500,00;{code_of('500.00')}\n"
        f"5511977776666;R2;5,00;{code_of('500.00')}\n"
        f"5511966665555;R3;500,00;{code_of('500.00')}\n"
    )
    assert run("campaign", "launch", *make(rows, message=message)[2:], "--yes").code == 0
    told = refused(connections)
    assert "the code asks for R$ 500,00, the row says R$ 5,00" in told[3]
    assert "who pays it pays that one" in told[4]
    assert ask(connections, "SELECT reference, amount_cents FROM pix_charges") == [("R1", 50000)]
    launch = make("to;code\n5511999998888;x\n", name="april", message=message)
    assert "needs a column `reference`" in run("campaign", "launch", *launch[2:], "--yes").sentence
    assert ask(connections, "SELECT name FROM campaigns") == [("march",)]


def test_a_batch_that_is_none_is_a_sentence_and_nothing_is_stored(run, make, connections):
    for rows, options, told in [
        ("to;amount;code\n5511999998888;1,00;\n", {}, "needs a column `reference`"),
        ("to;reference;code\n5511999998888;R1;\n", {}, "needs a column `amount`"),
        (
            "to;reference;amount;code\n5511999998888;R1;1,00;\n",
            {"lane": "utility"},
            "`lane: payment`, this one says utility",
        ),
    ]:
        assert told in run(*make(rows, **options)).sentence
    assert ask(connections, "SELECT count(*) FROM campaigns") == [(0,)]


@pytest.mark.parametrize(("typed", "code"), [("1.234,56", 0), ("1234.56", 0), ("1234", 1)])
def test_on_a_terminal_the_sum_is_to_be_typed(make, environment, connections, typed, code):
    arguments = make(
        "to;reference;amount;code\n5511999998888;R1;1.234,00;\n5511999997777;R2;0,56;\n5511999997777;R2;9,00;\n"
    )
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "disparo", *map(str, arguments)],
        env={**os.environ, **environment.values},
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        os.write(ours, f"{typed}\n".encode())
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)
    assert process.returncode == code, err
    assert "sum R$ 1.234,56" in err
    assert ask(connections, "SELECT count(*) FROM pix_charges") == [(2 if code == 0 else 0,)]
