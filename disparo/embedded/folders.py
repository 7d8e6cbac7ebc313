"""Folders of the home: whose they are, what others may do there, and what is said when they cannot be used."""

import contextlib
import errno
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from disparo.embedded.accounts import user_name
from disparo.errors import EmbeddedServerError


def make_home(home: Path) -> None:
    user = os.geteuid()
    missing = [folder for folder in (home, *home.parents) if not folder.exists()]
    for folder in reversed(missing):
        # New folders above root's home must let its PostgreSQL through; an ordinary user's are private.
        make_folder(folder, 0o755 if user == 0 and folder != home else 0o700)
    if not home.is_dir():
        raise EmbeddedServerError(f"{home} is not a folder: set DISPARO_HOME to a folder.")
    owner = home.stat().st_uid
    if owner != user:
        raise EmbeddedServerError(
            f"The home folder {home} belongs to the user {user_name(owner)} and this process runs as "
            f"{user_name(user)}: run as {user_name(owner)}, or set DISPARO_HOME to a folder of your own."
        )
    if not os.access(home, os.W_OK | os.X_OK):
        raise EmbeddedServerError(
            f"The home folder {home} may not be written: make it writable (chmod u+wx), or set "
            "DISPARO_HOME to another."
        )


def make_folder(path: Path, mode: int = 0o700, account: pwd.struct_passwd | None = None) -> Path:
    """``path`` as a folder of ``account`` (or of this user) with ``mode``, whatever the umask is.

    Raises:
      EmbeddedServerError: somebody else's folder, or a link, has that name.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    # Checked and changed through one descriptor, so that nobody can put another folder there in between.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as err:
        if err.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        raise EmbeddedServerError(
            f"{path} is a link or a file where Disparo needs a folder: remove it."
        ) from err
    try:
        now = os.fstat(descriptor)
        owner = account.pw_uid if account else os.geteuid()
        if now.st_uid not in (owner, os.geteuid()):
            raise EmbeddedServerError(
                f"The folder {path} belongs to the user {user_name(now.st_uid)}, and Disparo needs it for "
                "its own: remove it, or set DISPARO_HOME to another folder."
            )
        if stat.S_IMODE(now.st_mode) != mode:
            os.fchmod(descriptor, mode)
        if account is not None and now.st_uid != owner:
            os.fchown(descriptor, owner, account.pw_gid)
    finally:
        os.close(descriptor)
    return path


def flush_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def sentences(home: Path) -> Iterator[None]:
    """What the operating system refuses, as a sentence that names the path."""
    try:
        yield
    except OSError as err:
        path = err.filename or home
        match err.errno:
            case errno.ENOSPC | errno.EDQUOT:
                what = "the disk is full: make room, then try again"
            case errno.EACCES | errno.EPERM | errno.EROFS:
                user = user_name(os.geteuid())
                what = f"the user {user} may not use it: set DISPARO_HOME to a folder of its own"
            case _:
                what = f"{err.strerror or err}: repair it, or set DISPARO_HOME to another folder"
        raise EmbeddedServerError(
            f"The embedded servers of {home} cannot be used. {os.fsdecode(path)}: {what}."
        ) from err
