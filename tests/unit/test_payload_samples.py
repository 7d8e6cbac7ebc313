"""Messages in the shapes that Gupshup's and Meta's pages and other senders' tests publish, in our words."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from disparo.whatsapp import payloads

DATA = Path(__file__).parents[1] / "data" / "payloads"
ACCEPTED = [
    pytest.param(document, id=f"{file.stem}-{number}")
    for file in sorted((DATA / "accepted").glob("*.json"))
    for number, document in enumerate(json.loads(file.read_text()))
]
REFUSED = [pytest.param(case, id=case["shows"]) for case in json.loads((DATA / "refused.json").read_text())]


@pytest.mark.parametrize("document", ACCEPTED)
def test_a_published_message_passes_and_comes_out_equal(document: dict[str, Any]) -> None:
    before = copy.deepcopy(document)
    envelope, message = payloads.split(document)
    assert payloads.check(message) == []
    assert payloads.check_envelope(envelope, message) == []
    payloads.warnings(message)
    added = {"messaging_product": "whatsapp", "recipient_type": "individual"}
    assert payloads.wire(document.get("to", ""), message, envelope) == added | document
    assert document == before


def test_there_are_messages_of_nearly_every_kind() -> None:
    kinds = {payloads.kind(payloads.split(case.values[0])[1]) for case in ACCEPTED}
    assert len(ACCEPTED) >= 100
    assert len(kinds) >= 30


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_message_is_refused_at_its_place(case: dict[str, Any]) -> None:
    assert case["path"] in [fault.path for fault in payloads.check(case["message"])]
    assert case["path"] in [fault.path for fault in payloads.warnings(case["message"], raw=True)]
