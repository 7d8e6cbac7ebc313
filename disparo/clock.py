"""The clock for ages and deadlines."""

import time

_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_clock() -> float:
    """Seconds that count also while the machine sleeps, which monotonic time on Linux does not."""
    return time.clock_gettime(_BOOT_CLOCK)
