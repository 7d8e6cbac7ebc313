"""Who runs the servers, and what that user can reach."""

import contextlib
import pwd
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from disparo.embedded.programs import INSTEAD, environment
from disparo.errors import EmbeddedServerError

#: The first that exists runs root's PostgreSQL.
UNPRIVILEGED_USERS = ("disparo", "postgres", "nobody")


def as_user(account: pwd.struct_passwd | None) -> dict[str, Any]:
    """Arguments of ``subprocess`` that make the child run as ``account``."""
    if account is None:
        return {}
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def may_enter(account: pwd.struct_passwd, folder: Path) -> bool:
    return _shell(account, 'cd -- "$1"', [folder])


def may_read(account: pwd.struct_passwd, files: Sequence[Path]) -> bool:
    return _shell(account, 'for file; do test -r "$file" || exit 1; done', files)


def _shell(account: pwd.struct_passwd, script: str, paths: Sequence[Path]) -> bool:
    """Whether ``account`` can do it: tried, because modes alone say nothing of lists and mounts."""
    try:
        tried = subprocess.run(  # noqa: S603 - our own script
            ["/bin/sh", "-c", script, "sh", *paths], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, cwd="/", env=environment(), check=False, **as_user(account),
        )  # fmt: skip
    except PermissionError as err:
        raise EmbeddedServerError(
            f"PostgreSQL cannot run as root, and this process may not start one as {account.pw_name} (a "
            f"container without the capabilities SETUID and SETGID?): run as an ordinary user, or {INSTEAD}."
        ) from err
    return tried.returncode == 0


def unprivileged_user(data: Path) -> pwd.struct_passwd:
    """Who runs root's PostgreSQL: the owner of the data folder, which may be older than a better user."""
    if data.exists():
        owner = data.stat().st_uid
        with contextlib.suppress(KeyError):
            if owner != 0:
                return pwd.getpwuid(owner)
        raise EmbeddedServerError(
            f"{data} belongs to {user_name(owner)}, who cannot run PostgreSQL: give it (chown -R) to "
            f"one of the users {', '.join(UNPRIVILEGED_USERS)}."
        )
    for name in UNPRIVILEGED_USERS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise EmbeddedServerError(
        f"PostgreSQL cannot run as root, and none of the users {', '.join(UNPRIVILEGED_USERS)} exists: run "
        f"Disparo as an ordinary user, add a user disparo, or {INSTEAD}."
    )


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return "root" if uid == 0 else f"number {uid}"
