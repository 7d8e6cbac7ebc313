"""The stand-in's judgement and its books, without a network."""

import uuid
from typing import Any

import orjson
import pytest

from disparo.errors import InputError
from disparo.sandbox import control
from disparo.sandbox.answers import Answer, Manner
from disparo.sandbox.endpoint import Endpoint
from disparo.sandbox.ledger import KEPT, LONGEST_KEPT_BODY, Window, masked
from disparo.sandbox.options import Options


def body(to: str = "5511999990001", text: str = "Oi") -> bytes:
    return orjson.dumps(
        {
            "messaging_product": "whatsapp",
            "recipient_type": "individual",
            "to": to,
            "type": "text",
            "text": {"body": text},
        }
    )


def send(
    endpoint: Endpoint,
    content: bytes | None = None,
    *,
    app: str = "app",
    token: str = "sk_1",  # noqa: S107 - made up
    content_type: str = "application/json",
    now: float = 0.0,
) -> tuple[Answer, Manner]:
    return endpoint.receive(app, token, content_type, body() if content is None else content, now)


def test_an_accepted_message_is_answered_as_the_page_shows() -> None:
    answer, manner = send(Endpoint(Options()))
    shown = orjson.loads(answer.body)
    identity = shown["messages"][0]["id"]
    assert shown == {
        "messages": [{"id": identity}],
        "messaging_product": "whatsapp",
        "contacts": [{"input": "5511999990001", "wa_id": "5511999990001"}],
    }
    assert (answer.status, manner) == (200, Manner.WHOLE)
    assert uuid.UUID(identity).version == 4
    assert str(uuid.UUID(identity)) == identity


def test_no_two_ids_are_alike_even_over_a_reset_and_between_sandboxes() -> None:
    endpoints = [Endpoint(Options()), Endpoint(Options())]
    seen = set()
    for number in range(2000):
        endpoint = endpoints[number % 2]
        seen.add(orjson.loads(send(endpoint)[0].body)["messages"][0]["id"])
        if number == 1000:
            endpoint.reset()
    assert len(seen) == 2000


@pytest.mark.parametrize(
    ("fault", "status", "content"),
    [
        ("billing", 400, b'{"message":"Callback Billing must be enabled for this API","status":"error"}'),
        ("app", 400, b'{"message":"Invalid App Details","status":"error"}'),
        ("auth", 401, b'{"status":"error","message":"Authentication Failed"}'),
        ("throttle", 429, b'{"status":"error","message":"Too Many Requests"}'),
        ("500", 500, b'{"status":"error","message":"Internal server error. Please try again later"}'),
    ],
)
def test_the_documented_errors_have_exactly_the_documented_bodies(
    fault: str, status: int, content: bytes
) -> None:
    answer, _ = send(Endpoint(Options(suffix_faults={"*": fault})))
    assert (answer.status, answer.body) == (status, content)


@pytest.mark.parametrize("token", ["", "Bearer sk_1", "bearer sk_1", "Basic c2s="])
def test_no_token_or_one_with_a_scheme_fails_to_authenticate(token: str) -> None:
    answer, _ = send(Endpoint(Options()), token=token)
    assert (answer.status, answer.reason) == (401, "auth")


def test_known_apps_want_their_own_token_and_unknown_ones_are_refused() -> None:
    endpoint = Endpoint(Options(apps={"one": "sk_1", "two": "sk_2"}))
    assert send(endpoint, app="one", token="sk_1")[0].status == 200
    assert send(endpoint, app="one", token="sk_2")[0].reason == "auth"
    assert send(endpoint, app="three", token="sk_1")[0].reason == "app"


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded"])
def test_only_json_is_taken(content_type: str) -> None:
    assert send(Endpoint(Options()), content_type=content_type)[0].reason == "content-type"


def test_a_content_type_may_carry_a_charset() -> None:
    assert send(Endpoint(Options()), content_type="Application/JSON; charset=utf-8")[0].status == 200


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"x"', b"null", b"\xff", b'{"a":NaN}', b"[" * 5000])
def test_what_is_no_json_object_is_refused(content: bytes) -> None:
    answer, _ = send(Endpoint(Options()), content)
    assert answer.status == 400
    assert orjson.loads(answer.body) == {"status": "error", "message": "Invalid JSON payload"}


def test_a_broken_message_is_refused_in_metas_shape_with_the_path() -> None:
    endpoint = Endpoint(Options())
    answer, _ = send(endpoint, body(text="x" * 4097))
    error = orjson.loads(answer.body)["error"]
    assert answer.status == 400
    assert error["code"] == 131009
    assert error["message"] == "(#131009) Parameter value is not valid"
    assert error["error_data"]["details"].startswith("text.body: ")
    [arrival] = endpoint.ledger.messages(None, 10)
    assert arrival["details"] == error["error_data"]["details"]


def test_the_rate_holds_in_every_sliding_second_and_for_each_app() -> None:
    endpoint = Endpoint(Options(rate=3))

    def status(now: float, app: str = "app") -> int:
        return send(endpoint, now=now, app=app)[0].status

    assert [status(now) for now in (0.0, 0.5, 0.9, 0.95)] == [200, 200, 200, 429]
    assert status(0.95, app="other") == 200
    # The first has left the window, what was refused never was in it.
    assert [status(now) for now in (1.0, 1.4, 1.5)] == [200, 429, 200]
    assert endpoint.control({"rate": 0})["rate"] == 0
    assert {status(1.5) for _ in range(10)} == {200}


def test_a_recipient_is_written_to_once_in_the_time_of_a_pair() -> None:
    endpoint = Endpoint(Options(pair=6))

    def reason(now: float, to: str = "5511999990001", app: str = "app") -> str:
        return send(endpoint, body(to), now=now, app=app)[0].reason

    assert [reason(now) for now in (0.0, 5.9, 6.0, 11.9)] == ["", "meta:131056", "", "meta:131056"]
    assert [reason(11.9, to="5511999990002"), reason(11.9, app="other")] == ["", ""]
    # Both spellings of a mobile are one user; a landline is another one.
    assert [reason(11.9, to=to) for to in ("551199990001", "551133334444")] == ["meta:131056", ""]
    assert endpoint.control({"pair": 0})["pair"] == 0
    assert {reason(11.9) for _ in range(10)} == {""}


def test_a_burst_to_a_recipient_is_borrowed_from_the_time_ahead() -> None:
    endpoint = Endpoint(Options(pair="6:45"))

    def accepted(*instants: float) -> list[bool]:
        return [send(endpoint, now=now)[0].status == 200 for now in instants]

    assert accepted(*[n / 10 for n in range(46)]) == [True] * 45 + [False]
    assert accepted(269.9, 270.0) == [False, True]
    endpoint.reset()
    assert accepted(*[n / 10 for n in range(20)]) == [True] * 20
    assert accepted(6.0, 119.9, 120.0) == [False, False, True]


def test_what_a_fault_refuses_does_not_count_for_its_pair() -> None:
    endpoint = Endpoint(Options(pair=6, suffix_faults={"*": "500*1"}))
    assert [send(endpoint, now=now)[0].status for now in (0.0, 0.1, 0.2)] == [500, 200, 400]


def test_the_longest_suffix_decides_and_a_star_is_for_the_rest() -> None:
    endpoint = Endpoint(Options(suffix_faults={"1": "500", "0001": "meta:131026", "*": "billing"}))
    assert send(endpoint, body("5511999990001"))[0].reason == "meta:131026"
    assert send(endpoint, body("5511999990011"))[0].reason == "500"
    assert send(endpoint, body("5511999990002"))[0].reason == "billing"


def test_a_counted_fault_is_met_by_the_first_attempts_of_each_recipient() -> None:
    endpoint = Endpoint(Options(suffix_faults={"*": "500*2"}))
    for to in ("5511999990001", "5511999990002"):
        assert [send(endpoint, body(to))[0].status for _ in range(4)] == [500, 500, 200, 200]
    endpoint.reset()
    assert send(endpoint)[0].status == 500


def test_seeded_faults_are_the_same_in_every_run_and_as_frequent_as_asked() -> None:
    def run(seed: int) -> list[int]:
        endpoint = Endpoint(Options(random_faults={"500": 0.2, "billing": 0.1}, seed=seed))
        return [send(endpoint)[0].status for _ in range(1000)]

    assert run(7) == run(7)
    assert run(7) != run(8)
    counts = {status: run(7).count(status) for status in (200, 400, 500)}
    assert 640 < counts[200] < 760
    assert 60 < counts[400] < 140
    assert 150 < counts[500] < 250


def test_latency_does_not_disturb_the_seeded_faults() -> None:
    still = Endpoint(Options(random_faults={"500": 0.5}, seed=1))
    slow = Endpoint(Options(random_faults={"500": 0.5}, seed=1, latency_ms="5-10"))
    for _ in range(50):
        assert 0.005 <= slow.delay() <= 0.01
        assert send(still)[0].status == send(slow)[0].status


@pytest.mark.parametrize(
    ("fault", "manner", "status"),
    [
        ("close-after", Manner.CLOSE, None),
        ("hang", Manner.HANG, None),
        ("drip", Manner.DRIP, 200),
        ("cut", Manner.CUT, 200),
        ("no-id", Manner.WHOLE, 200),
        ("502-after", Manner.WHOLE, 502),
    ],
)
def test_a_message_is_accepted_although_its_answer_fails(
    fault: str, manner: Manner, status: int | None
) -> None:
    endpoint = Endpoint(Options(suffix_faults={"*": fault}))
    assert send(endpoint)[1] is manner
    stats = endpoint.ledger.stats()
    assert (stats["accepted"], stats["refused"]["total"]) == (1, 0)
    [arrival] = endpoint.ledger.messages(None, 10)
    assert (arrival["outcome"], arrival["status"]) == (f"accepted, {fault}", status)
    assert arrival["id"]


def test_close_before_refuses_without_a_status() -> None:
    endpoint = Endpoint(Options(suffix_faults={"*": "close-before"}))
    assert send(endpoint)[1] is Manner.CLOSE
    assert endpoint.ledger.stats()["refused"] == {
        "total": 1,
        "by_status": {"none": 1},
        "by_reason": {"close-before": 1},
    }


def test_every_fault_that_an_arrival_met_is_counted_whatever_became_of_it() -> None:
    endpoint = Endpoint(Options(suffix_faults={"1": "500*2", "2": "no-id", "3": "close-before"}, rate=6))
    for to in ("5511999990001",) * 3 + ("5511999990002", "5511999990003", "5511999990004", "5511999990002"):
        send(endpoint, body(to))
    # The third to 1, the one to 4 and the one beyond the rate met none.
    assert endpoint.ledger.stats()["faults"] == {"500": 2, "no-id": 1, "close-before": 1}
    endpoint.reset()
    assert endpoint.ledger.stats()["faults"] == {}


def test_the_same_message_again_is_counted_as_repeated_whatever_the_order_of_its_keys() -> None:
    endpoint = Endpoint(Options())
    turned = orjson.dumps(dict(reversed(orjson.loads(body()).items())))
    for content in (body(), turned, body(text="Tchau"), body("5511999990002")):
        assert send(endpoint, content)[0].status == 200
    assert send(endpoint, app="other")[0].status == 200
    stats = endpoint.ledger.stats()
    assert (stats["arrivals"], stats["accepted"], stats["distinct"], stats["repeated"]) == (5, 5, 4, 1)
    assert stats["by_app"]["app"]["repeated"] == 1
    assert stats["by_app"]["other"]["distinct"] == 1


def test_the_accepted_log_gives_every_message_back() -> None:
    endpoint = Endpoint(Options(suffix_faults={"7": "no-id"}))
    sent = [f"55119{number:08d}" for number in range(2500)]
    for to in sent:
        send(endpoint, body(to))
    lines = [orjson.loads(line) for page in endpoint.ledger.log.pages() for line in page.splitlines()]
    assert [line["to"] for line in lines] == sent
    assert len({line["id"] for line in lines}) == len({line["digest"] for line in lines}) == 2500
    assert {line["app"] for line in lines} == {"app"}
    assert lines[7]["outcome"] == "accepted, no-id"
    assert lines[8]["outcome"] == "accepted"
    assert lines[-1]["id"] == endpoint.ledger.messages(None, 1)[0]["id"]


def test_the_accepted_log_may_grow_while_it_is_read() -> None:
    endpoint = Endpoint(Options())
    for number in range(1500):
        send(endpoint, body(text=str(number)))
    pages = endpoint.ledger.log.pages()
    first = next(pages)
    send(endpoint, body(text="later"))
    assert len(first.splitlines()) + sum(len(page.splitlines()) for page in pages) == 1500


def test_the_last_arrivals_are_kept_with_their_bodies() -> None:
    endpoint = Endpoint(Options())
    for number in range(KEPT + 5):
        send(endpoint, body(f"55119{number:08d}"))
    kept = endpoint.ledger.messages(None, KEPT * 2)
    assert len(kept) == KEPT
    assert kept[-1]["body"]["to"] == f"55119{KEPT + 4:08d}"
    assert kept[0]["number"] == 6
    assert [each["to"] for each in endpoint.ledger.messages("5511900000009", 5)] == ["5511900000009"]
    assert endpoint.ledger.messages(None, 0) == []


def test_a_huge_or_broken_body_is_counted_but_not_shown() -> None:
    endpoint = Endpoint(Options())
    send(endpoint, b" " * LONGEST_KEPT_BODY + body())
    send(endpoint, b"{")
    assert [each["body"] for each in endpoint.ledger.messages(None, 5)] == [None, None]


def test_a_token_is_shown_masked() -> None:
    assert [masked(token) for token in ("", "short", "sk_0123456789abcdef")] == ["", "***", "sk_***"]
    endpoint = Endpoint(Options())
    send(endpoint, token="sk_0123456789abcdef")
    send(endpoint, token="")
    assert [each["authorization"] for each in endpoint.ledger.messages(None, 5)] == [
        {"present": True, "masked": "sk_***"},
        {"present": False, "masked": ""},
    ]


def test_the_worst_second_slides() -> None:
    window = Window()
    for now in (0.0, 0.6, 0.7, 1.0, 1.55, 1.65, 9.0):
        window.add(now)
    # 0.6, 0.7, 1.0, 1.55: whole seconds of a clock would have shown three.
    assert window.most == 4


def test_a_reset_forgets_all_but_what_is_open() -> None:
    endpoint = Endpoint(Options(rate=1))
    endpoint.ledger.opened()
    send(endpoint)
    send(endpoint)
    endpoint.reset()
    stats = endpoint.ledger.stats()
    assert (stats["arrivals"], stats["accepted"], stats["by_app"], stats["first_at"]) == (0, 0, {}, None)
    assert (stats["open_requests"], stats["open_requests_most"]) == (1, 1)
    assert endpoint.ledger.messages(None, 5) == []
    assert list(endpoint.ledger.log.pages()) == []
    assert send(endpoint)[0].status == 200


def test_a_wrong_change_changes_nothing() -> None:
    endpoint = Endpoint(Options(rate=5))
    with pytest.raises(InputError):
        endpoint.control({"rate": 9, "latency_ms": "x"})
    assert endpoint.options.rate == 5


def shown(endpoint: Endpoint, method: str, path: str, query: str = "", content: bytes = b"") -> Any:
    reply = control.handle(endpoint, method, path, query, content)
    assert isinstance(reply, Answer)
    return reply.status, orjson.loads(reply.body)


def test_the_own_pages_answer() -> None:
    endpoint = Endpoint(Options())
    send(endpoint)
    send(endpoint, body("5511999990002"))
    assert shown(endpoint, "GET", "/health") == (200, {"status": "ok"})
    assert shown(endpoint, "GET", "/stats")[1]["accepted"] == 2
    assert len(shown(endpoint, "GET", "/messages", "to=5511999990002&limit=5")[1]) == 1
    assert shown(endpoint, "GET", "/messages", "limit=x")[0] == 400
    assert shown(endpoint, "POST", "/control", content=b'{"rate":3}')[1]["rate"] == 3
    assert shown(endpoint, "GET", "/control")[1]["rate"] == 3
    status, refusal = shown(endpoint, "POST", "/control", content=b'{"speed":3}')
    assert (status, "speed" in refusal["message"]) == (400, True)
    assert shown(endpoint, "POST", "/control", content=b"[]")[0] == 400
    assert shown(endpoint, "POST", "/reset") == (200, {"status": "ok"})
    assert shown(endpoint, "GET", "/stats")[1]["accepted"] == 0
    assert shown(endpoint, "GET", "/reset")[0] == 405
    assert shown(endpoint, "GET", "/other")[0] == 404
