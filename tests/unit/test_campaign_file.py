"""What a campaign file may say of its pace."""

import math

import pytest

from disparo import campaigns
from disparo.errors import InputError


def file(**more):
    message = {"type": "text", "text": {"body": "Oi"}}
    return campaigns.parse_file({"name": "a", "app": "loja", "message": message, **more}, "a.yaml")


@pytest.mark.parametrize("given", [0, -1, 1e-7, 1e-300, math.inf, math.nan])
def test_a_limit_that_nobody_can_mean_is_refused(given):
    with pytest.raises(InputError, match=r"^a\.yaml: max_per_second: give messages per second"):
        file(max_per_second=given)


@pytest.mark.parametrize("given", [1e-6, 0.5, 3, "2.5", 1_000_000])
def test_any_other_limit_is_taken(given):
    assert file(max_per_second=given).max_per_second == float(given)
