"""``stop_if`` of a campaign file: how many failures or unknowns are too many; pure."""

import re
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from disparo.errors import InputError
from disparo.statuses import ACCEPTED_OR_FURTHER, Lane, Status

#: Messages answered before a share says anything: of 500, a share of 20 % is known to within 4 % (two standard
#: deviations), and at the default rate they take less than a minute.
AFTER = 500

_SHARE = re.compile(r"(\d{1,3}(?:[.,]\d+)?)\s*%", re.ASCII)
_ADVICE = "write `{failed: 20%, after: 500}` or `off`"


class StopIf(BaseModel):
    """Shares (0 to 1) of the messages answered at which a campaign pauses, once ``after`` are answered."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    failed: float | None = None
    unknown: float | None = None
    after: int = AFTER

    @classmethod
    def parse(cls, given: object) -> Self:
        """What stands under ``stop_if:``; a share is ``20%`` or ``0.2``.

        Raises:
          InputError: It cannot be read; says how it is written.
        """
        if not isinstance(given, Mapping) or not {"failed", "unknown"} & set(given):
            raise InputError(f"stop_if: {_ADVICE}")
        if other := sorted(set(map(str, given)) - set(cls.model_fields)):
            raise InputError(f"stop_if.{other[0]}: no such setting; there are failed, unknown and after")
        after = given.get("after", AFTER)
        if not isinstance(after, int) or isinstance(after, bool) or after < 1:
            raise InputError("stop_if.after: is a number of messages, such as 500")
        return cls(
            failed=_share("failed", given.get("failed")),
            unknown=_share("unknown", given.get("unknown")),
            after=after,
        )

    @classmethod
    def stored(cls, given: object) -> Self | None:
        """What a campaign's row holds; None for what an earlier version kept there without reading it."""
        try:
            return cls.parse(given)
        except InputError:
            return None

    def broken(self, answers: Mapping[str, int]) -> str | None:
        """What is too much in ``answers`` (as `answered` gives them), in a sentence; None while all is well."""
        n = answers["answered"]
        if n < self.after:
            return None
        for status in (Status.FAILED, Status.UNKNOWN):
            limit, found = getattr(self, status), answers[status]
            if limit is not None and found and found >= limit * n:
                return (
                    f"{found:,} of {n:,} messages answered are {status} ({found / n:.1%}); "
                    f"stop_if pauses at {100 * limit:.4g}%"
                )
        return None


#: What holds for a lane where the campaign file says nothing.
BY_LANE = {Lane.MARKETING: StopIf(failed=0.2)}


def answered(counts: Mapping[str, int]) -> dict[str, int]:
    """Of a campaign's counts by status: how many were answered, or never will be, and how many badly."""
    good = sum(counts[status] for status in ACCEPTED_OR_FURTHER)
    failed, unknown = counts[Status.FAILED], counts[Status.UNKNOWN]
    return {"answered": good + failed + unknown, "failed": failed, "unknown": unknown}


def _share(name: str, given: Any) -> float | None:
    if given is None:
        return None
    share = -1.0
    if isinstance(given, str) and (match := _SHARE.fullmatch(given.strip())):
        share = float(match[1].replace(",", ".")) / 100
    elif isinstance(given, float | int) and not isinstance(given, bool) and given < 1:
        share = float(given)  # 1 may mean one percent or all of them
    if not 0 <= share <= 1:
        raise InputError(f"stop_if.{name}: is a share such as 20% or 0.2")
    return share
