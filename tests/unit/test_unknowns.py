"""The text that the provider echoes, and what counts as evidence."""

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest

from disparo.statuses import Status
from disparo.unknowns import Attempt, Evidence, callback_data, parse_callback_data

HERE = UUID("7d1e8a52-4b1c-4a53-9f58-2d4b7d4d8f10")
MADE = datetime(2026, 11, 21, 12, 0, 0, 123456, tzinfo=UTC)
CLAIMED = MADE + timedelta(seconds=5)


def proof(installation_id: UUID = HERE, message_id: int = 17, created_at: datetime = MADE) -> str:
    parsed = parse_callback_data(callback_data(installation_id, message_id, created_at, Attempt(1, CLAIMED)))
    assert parsed is not None
    return parsed.proof


@pytest.mark.parametrize(("message_id", "claim"), [(1, 1), (17, 3), (10**18 - 1, 10**9 - 1)])
def test_what_is_written_is_read_back_to_the_microsecond(message_id: int, claim: int) -> None:
    attempt = Attempt(claim, CLAIMED)
    data = callback_data(HERE, message_id, MADE, attempt)
    parsed = parse_callback_data(data)
    assert parsed is not None
    assert (parsed.message_id, parsed.attempt) == (message_id, attempt)
    assert len(data) <= 74


def test_the_proof_is_of_the_row_and_of_the_installation_not_of_the_attempt() -> None:
    assert proof() == proof()
    assert proof(installation_id=UUID(int=1)) != proof()
    assert proof(message_id=18) != proof()
    assert proof(created_at=MADE + timedelta(microseconds=1)) != proof()


def test_the_zone_in_which_an_instant_is_given_does_not_matter() -> None:
    local = timezone(timedelta(hours=-3))
    there = callback_data(HERE, 17, MADE.astimezone(local), Attempt(1, CLAIMED.astimezone(local)))
    assert there == callback_data(HERE, 17, MADE, Attempt(1, CLAIMED))


@pytest.mark.parametrize(
    "data",
    [
        "",
        "order-1001",
        "17.1",
        "disparo1.17.1.1763726405123456",
        "disparo1.17.1.1763726405123456.0123456789abcde",
        "disparo1.17.1.1763726405123456.0123456789abcdef\n",
        " disparo1.17.1.1763726405123456.0123456789abcdef",
        "disparo1.-17.1.1763726405123456.0123456789abcdef",
        "disparo1.٣.1.1763726405123456.0123456789abcdef",
        "disparo1.9999999999999999999.1.1763726405123456.0123456789abcdef",
        "disparo1.17.9999999999.1763726405123456.0123456789abcdef",
        "disparo1.17.1.99999999999999999999.0123456789abcdef",
        "disparo2.17.1.1763726405123456.0123456789abcdef",
    ],
)
def test_another_text_is_nobodys(data: str) -> None:
    assert parse_callback_data(data) is None


@pytest.mark.parametrize("status", [Status.PENDING, Status.UNKNOWN, Status.EXPIRED])
def test_only_what_the_provider_reports_is_evidence(status: Status) -> None:
    with pytest.raises(ValueError, match=f"{status} is no status that the provider reports"):
        Evidence(status, MADE)
