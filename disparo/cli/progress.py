"""How a campaign goes: a bar with rate and time left on a terminal, plain lines otherwise."""

import sys
import time
from types import TracebackType
from typing import Any, Self
from zoneinfo import ZoneInfo

from disparo.cli.output import duration, note, waiting

#: Seconds between two plain lines.
LINE_SECONDS = 5.0


class Progress:
    """Shows statuses of one campaign as they come."""

    def __init__(self, name: str, zone: ZoneInfo) -> None:
        self._name, self._zone = name, zone
        self._bar: Any = None
        self._task: Any = None
        self._told_at = float("-inf")
        self._told = ""

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn(
                    "{task.completed:,.0f}/{task.total:,.0f}  {task.fields[rate]}/s  {task.fields[left]}"
                ),
                TextColumn("{task.fields[more]}"),
            )
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(self._name, total=1, rate="0", left="", more="")
            self._bar.start()
        return self

    def update(self, found: dict[str, Any]) -> None:
        """Show a status as `disparo.progress.status` gives it."""
        counts = found["counts"]
        left = counts["pending"] + counts["sending"]
        done = found["total"] - left
        more = "  ".join(f"{status} {counts[status]:,}" for status in ("failed", "unknown") if counts[status])
        if found["limited_by"] not in ("none", "rate"):
            why = waiting(found, self._zone)
            more += f"  limited by {found['limited_by']}" + (f": {why}" if why else "")
        eta = duration(found["eta_seconds"])
        if self._bar is not None:
            self._bar.update(
                self._task,
                total=max(1, found["total"]),
                completed=done,
                rate=f"{found['rate']:g}",
                left=f"{eta} left" if left else "",
                more=more.strip(),
            )
            return
        line = (
            f"{self._name}: {done:,} of {found['total']:,}, {found['rate']:g}/s, {eta} left  {more}".rstrip()
        )
        now = time.monotonic()
        if line != self._told and (now - self._told_at >= LINE_SECONDS or not left):
            self._told, self._told_at = line, now
            note(line)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
