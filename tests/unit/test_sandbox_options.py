"""Options and faults: what can be said, and the sentence when it is wrong."""

from typing import Any

import pytest

from disparo.errors import InputError
from disparo.sandbox import faults
from disparo.sandbox.answers import Manner
from disparo.sandbox.options import Options, from_arguments


def test_a_command_line_becomes_options() -> None:
    options = from_arguments(
        apps=["app-1=sk_1", "app-2=a=b"],
        latency_ms="50-150",
        rate="80",
        fault=["0001=meta:131026", "*=500*2"],
        random=["close-after=0.01"],
        seed="7",
        pair="6:45",
    )
    assert options == Options(
        apps={"app-1": "sk_1", "app-2": "a=b"},
        latency_ms="50-150",
        rate=80,
        suffix_faults={"0001": "meta:131026", "*": "500*2"},
        random_faults={"close-after": 0.01},
        seed=7,
        pair="6:45",
    )
    assert options.latency_seconds() == (0.05, 0.15)
    assert options.pair_limit() == (6.0, 45)


def test_without_arguments_everything_is_off() -> None:
    assert from_arguments() == Options(latency_ms="0")
    assert Options().latency_seconds() == (0.0, 0.0)
    assert Options().pair_limit() == (0.0, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"latency_ms": "fast"}, "latency_ms"),
        ({"latency_ms": "150-50"}, "latency_ms"),
        ({"latency_ms": "-1"}, "latency_ms"),
        ({"pair": "often"}, "pair"),
        ({"pair": "-1"}, "pair"),
        ({"pair": "6:0"}, "pair"),
        ({"pair": "6:"}, "pair"),
        ({"pair": "3601"}, "pair"),
        ({"rate": "many"}, "--rate"),
        ({"rate": "-1"}, "rate"),
        ({"fault": ["0001"]}, "--fault"),
        ({"fault": ["abc=500"]}, "suffix_faults"),
        ({"fault": ["1=500", "1=502"]}, "twice"),
        ({"fault": ["1=explode"]}, "close-after"),
        ({"random": ["hang=often"]}, "--random hang"),
        ({"random": ["hang=1.5"]}, "probability"),
        ({"random": ["hang=nan"]}, "probability"),
        ({"random": ["hang=0.6", "drip=0.6"]}, "add up"),
        ({"seed": "x"}, "--seed"),
        ({"apps": ["app"]}, "--app"),
        ({"apps": ["a/b=t"]}, "app id"),
    ],
)
def test_a_wrong_argument_is_a_sentence_that_names_the_option(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        from_arguments(**arguments)


def test_a_token_is_in_no_error_and_in_no_repr() -> None:
    with pytest.raises(InputError) as caught:
        from_arguments(apps=["=sk_secret"])
    assert "sk_secret" not in str(caught.value)
    with pytest.raises(InputError) as caught:
        Options(apps={"app": "sk_secret and more"})
    assert "sk_secret" not in str(caught.value)
    options = Options(apps={"app": "sk_secret"})
    assert "sk_secret" not in repr(options)
    assert options.shown()["apps"] == {"app": "***"}


def test_a_change_leaves_what_it_does_not_name() -> None:
    options = Options(rate=80, latency_ms=5).changed({"latency_ms": "1-2"})
    assert (options.rate, options.latency_ms) == (80, "1-2")


@pytest.mark.parametrize(
    "changes",
    [
        {"speed": 1},
        {"pair": True},
        {"pair": None},
        {"rate": 1.5},
        {"rate": True},
        {"latency_ms": None},
        {"latency_ms": True},
        {"suffix_faults": ["x"]},
        {"suffix_faults": {"1": 500}},
        {"random_faults": {"hang": "x"}},
        {"seed": "x"},
        {"apps": {"a": ""}},
        {"apps": {"a": 1}},
    ],
)
def test_a_wrong_change_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InputError):
        Options().changed(changes)


@pytest.mark.parametrize(
    ("text", "status", "accepts", "manner"),
    [
        ("billing", 400, False, Manner.WHOLE),
        ("auth", 401, False, Manner.WHOLE),
        ("app", 400, False, Manner.WHOLE),
        ("throttle", 429, False, Manner.WHOLE),
        ("throttle:3", 429, False, Manner.WHOLE),
        ("meta:131026", 400, False, Manner.WHOLE),
        ("meta:132001", 404, False, Manner.WHOLE),
        ("meta:200", 403, False, Manner.WHOLE),
        ("meta:999999", 400, False, Manner.WHOLE),
        ("gupshup:1003", 400, False, Manner.WHOLE),
        ("gupshup:4001", 429, False, Manner.WHOLE),
        ("500", 500, False, Manner.WHOLE),
        ("502", 502, False, Manner.WHOLE),
        ("503", 503, False, Manner.WHOLE),
        ("504", 504, False, Manner.WHOLE),
        ("504-after", 504, True, Manner.WHOLE),
        ("close-before", 0, False, Manner.CLOSE),
        ("close-after", None, True, Manner.CLOSE),
        ("hang", None, True, Manner.HANG),
        ("drip", None, True, Manner.DRIP),
        ("cut", None, True, Manner.CUT),
        ("no-id", None, True, Manner.WHOLE),
    ],
)
def test_each_fault_has_its_answer(text: str, status: int | None, accepts: bool, manner: Manner) -> None:
    fault = faults.parse(text)
    assert (fault.answer and fault.answer.status) == status
    assert (fault.accepts, fault.manner, fault.times) == (accepts, manner, None)
    assert faults.parse(f"{text}*2").times == 2


@pytest.mark.parametrize(
    "text", ["", "50", "meta", "meta:", "meta:x", "hang:1", "hang*0", "hang*", "501-after"]
)
def test_an_unknown_fault_is_a_sentence(text: str) -> None:
    with pytest.raises(InputError, match=r"(?i)fault"):
        faults.parse(text)
